// How far the loading of a model has come, on a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace mini_engine {

/// One line of a terminal that is drawn anew a few times a second: share, bytes and rate. One thread at a time.
class ProgressBar {
 public:
  using Clock = std::chrono::steady_clock;

  /// Draws to `out` if that is a terminal, else nothing. `out` must outlive it.
  explicit ProgressBar(std::FILE* out);
  /// Ends the line, if one was begun.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void show(std::int64_t num_bytes, std::int64_t num_bytes_in_all);

 private:
  std::FILE* out_;
  const bool is_terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_drawn_{};
};

/// "loading [#####     ]  50%  8.0 of 16.1 GB, 2.9 GB/s", `num_bytes` of which have taken `seconds`.
[[nodiscard]] std::string progress_line(std::int64_t num_bytes, std::int64_t num_bytes_in_all, double seconds);

}  // namespace mini_engine
