// How far a run is.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <mutex>
#include <string>

namespace lab {

/// Tells how far it is, and how long it will take at the pace so far. Steps may be taken from several threads.
class Progress {
 public:
  explicit Progress(std::size_t count) : count_(count) {}
  void step(const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++done_;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    if (done_ < count_ && seconds < next_) return;
    next_ = seconds + 5;
    const double left = seconds / static_cast<double>(done_) * static_cast<double>(count_ - done_);
    fmt::print(stderr, "{} of {}, {:.0f} s, {:.0f} s left: {}\n", done_, count_, seconds, left, what);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::mutex mutex_;
  std::size_t count_, done_ = 0;
  Clock::time_point start_ = Clock::now();
  double next_ = 0;
};

}  // namespace lab
