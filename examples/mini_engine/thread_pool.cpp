#include "thread_pool.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "error.hpp"

namespace mini_engine {
namespace {

// About 50 microseconds: longer than the pause between two jobs of a pass, shorter than a scheduler's time slice.
constexpr int kNumSpins = 2000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Returns once `value` is no longer `old`.
void wait_while(const std::atomic<int>& value, int old) {
  for (int spin = 0; spin < kNumSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  constexpr int kMostThreads = 1024;
  if (num_threads < 0 || num_threads > kMostThreads) {
    throw Error("number of threads is " + std::to_string(num_threads) + ", not in [0, 1024]");
  }
  if (num_threads == 0) {
    num_threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostThreads);
  }
  workers_.reserve(static_cast<std::size_t>(num_threads - 1));
  for (int thread_index = 1; thread_index < num_threads; ++thread_index) {
    workers_.emplace_back([this, thread_index] { worker_loop(thread_index); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_erased(int num_tasks, const Job& job) {
  if (num_tasks <= 0) return;
  job_ = job;
  num_done_.store(0, std::memory_order_relaxed);
  num_left_.store(num_tasks, std::memory_order_release);
  if (num_tasks > 1 && !workers_.empty()) {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }
  work(0);
  for (int done = num_done_.load(std::memory_order_acquire); done != num_tasks;
       done = num_done_.load(std::memory_order_acquire)) {
    wait_while(num_done_, done);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::work(int thread_index) {
  int num_left = num_left_.load(std::memory_order_acquire);
  while (num_left > 0) {
    if (num_left_.compare_exchange_weak(num_left, num_left - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      run_task(job_.num_tasks - num_left, thread_index);
      num_left = num_left_.load(std::memory_order_acquire);
    }
  }
}

void ThreadPool::run_task(int task_index, int thread_index) {
  try {
    job_.call(job_.context, task_index, thread_index);
  } catch (...) {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_ || task_index < failed_task_) {
      failure_ = std::current_exception();
      failed_task_ = task_index;
    }
  }
  // Only the caller sleeps on the count. Every step wakes it, since it sleeps on the value it saw last.
  num_done_.fetch_add(1, std::memory_order_acq_rel);
  if (thread_index != 0) num_done_.notify_one();
}

void ThreadPool::worker_loop(int thread_index) {
  for (;;) {
    const int epoch = epoch_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_acquire)) return;
    work(thread_index);
    wait_while(epoch_, epoch);
  }
}

}  // namespace mini_engine
