// A few threads that wait for short jobs. A forward pass starts hundreds of jobs a second that each last microseconds
// to milliseconds, so waiting threads spin for a moment before they sleep.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace mini_engine {

/// One thread at a time may call run(); a task must not call run() of its own pool.
class ThreadPool {
 public:
  /// `num_threads` counts the calling thread; 0 takes all cores. Throws Error when negative or above 1,024.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls task(task_index, thread_index) once for each task_index in [0, num_tasks), lower indices first, and returns
  /// when all are done. thread_index lies in [0, num_threads()) and no two tasks run at once under the same one.
  /// Rethrows the exception of the lowest task that threw, after all tasks have run.
  template <typename Task>
  void run(int num_tasks, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run_erased(num_tasks, {[](void* context, int task_index, int thread_index) {
                             (*static_cast<Plain*>(context))(task_index, thread_index);
                           },
                           const_cast<void*>(static_cast<const void*>(&task)), num_tasks});
  }

 private:
  struct Job {
    void (*call)(void* context, int task_index, int thread_index) = nullptr;
    void* context = nullptr;
    int num_tasks = 0;
  };

  void run_erased(int num_tasks, const Job& job);
  void work(int thread_index);
  void run_task(int task_index, int thread_index);
  void worker_loop(int thread_index);

  // The job may be read only by a thread that holds a task of it: the caller does not replace the job before every
  // task taken has been counted in num_done_.
  Job job_;
  alignas(64) std::atomic<int> num_left_{0};  // tasks nobody has taken yet
  alignas(64) std::atomic<int> num_done_{0};
  alignas(64) std::atomic<int> epoch_{0};  // moves with every job; what idle workers sleep on
  std::atomic<bool> stopping_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  int failed_task_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace mini_engine
