// Several threads on one list of jobs.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <optional>

namespace lab {

/// The numbers [0, count), each given out once. All members may be called from several threads.
class JobQueue {
 public:
  explicit JobQueue(std::size_t count) : count_(count) {}
  /// Nothing when all have been given out, or after stop().
  [[nodiscard]] std::optional<std::size_t> next() {
    const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count_ || stopped_.load(std::memory_order_relaxed)) return std::nullopt;
    return index;
  }
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

 private:
  const std::size_t count_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> stopped_ = false;
};

/// Calls work(jobs) on num_workers threads, of which the calling one is the first; it takes jobs until there are none.
/// When one throws, the others are given no more jobs, and the first exception is thrown once all have returned.
void run_workers(int num_workers, JobQueue& jobs, const std::function<void(JobQueue&)>& work);

}  // namespace lab
