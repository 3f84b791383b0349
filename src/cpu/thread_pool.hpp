// A few threads that share out the tasks of one loop at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Runs loops on its threads and on the caller's. Thread-safety: parallel_for() may be called from several threads at
/// once; while the pool is busy with one loop, further callers run theirs alone. Tasks must not throw.
class ThreadPool {
 public:
  /// `num_threads` counts the calling thread; 0 or less means one for each core. Threads that the system refuses are
  /// done without.
  explicit ThreadPool(std::int32_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// How many workers a loop can have at most, the caller included.
  [[nodiscard]] std::int32_t num_workers() const noexcept { return static_cast<std::int32_t>(threads_.size()) + 1; }

  /// Calls body(task_index, worker_index) once for each task in [0, num_tasks), in any order, and returns when all are
  /// done. worker_index is in [0, num_workers()) and is used by one thread at a time within this loop.
  template <class Body>
  void parallel_for(std::int64_t num_tasks, const Body& body) {
    const auto call = [](const void* context, std::int64_t task_index, std::int32_t worker_index) {
      (*static_cast<const Body*>(context))(task_index, worker_index);
    };
    run(Loop{call, &body, num_tasks});
  }

 private:
  struct Loop {
    void (*call)(const void* context, std::int64_t task_index, std::int32_t worker_index) = nullptr;
    const void* context = nullptr;
    std::int64_t num_tasks = 0;
  };

  void run(const Loop& loop);
  void work(const Loop& loop, std::int32_t worker_index) noexcept;
  void serve(std::int32_t worker_index) noexcept;

  std::mutex busy_;  // held by the caller whose loop the threads run; taken before mutex_
  std::mutex mutex_;
  std::condition_variable loop_ready_;
  std::condition_variable loop_done_;
  Loop loop_;                      // guarded by mutex_, as are the next three
  std::uint64_t loop_number_ = 0;  // tells a thread that a loop is new
  std::int32_t num_serving_ = 0;   // threads that have yet to finish the current loop
  bool stopping_ = false;
  std::atomic<std::int64_t> next_task_{0};
  std::vector<std::thread> threads_;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
