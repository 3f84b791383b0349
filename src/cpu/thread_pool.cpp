#include "cpu/thread_pool.hpp"

#include <algorithm>
#include <system_error>

namespace pikv {
inline namespace v0 {
namespace cpu {

ThreadPool::ThreadPool(std::int32_t num_threads) {
  if (num_threads <= 0) num_threads = static_cast<std::int32_t>(std::max(1U, std::thread::hardware_concurrency()));
  threads_.reserve(static_cast<std::size_t>(num_threads - 1));
  for (std::int32_t worker_index = 1; worker_index < num_threads; ++worker_index) {
    try {
      threads_.emplace_back([this, worker_index] { serve(worker_index); });
    } catch (const std::system_error&) {
      break;
    }
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  loop_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const Loop& loop) {
  std::unique_lock busy(busy_, std::defer_lock);
  if (threads_.empty() || loop.num_tasks <= 1 || !busy.try_lock()) {
    for (std::int64_t task_index = 0; task_index < loop.num_tasks; ++task_index) loop.call(loop.context, task_index, 0);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    loop_ = loop;
    ++loop_number_;
    num_serving_ = static_cast<std::int32_t>(threads_.size());
    next_task_.store(0, std::memory_order_relaxed);
  }
  loop_ready_.notify_all();
  work(loop, 0);
  std::unique_lock lock(mutex_);
  loop_done_.wait(lock, [this] { return num_serving_ == 0; });
}

void ThreadPool::work(const Loop& loop, std::int32_t worker_index) noexcept {
  while (true) {
    const std::int64_t task_index = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task_index >= loop.num_tasks) return;
    loop.call(loop.context, task_index, worker_index);
  }
}

void ThreadPool::serve(std::int32_t worker_index) noexcept {
  std::uint64_t served = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    loop_ready_.wait(lock, [&] { return stopping_ || loop_number_ != served; });
    if (stopping_) return;
    served = loop_number_;
    const Loop loop = loop_;
    lock.unlock();
    work(loop, worker_index);
    lock.lock();
    if (--num_serving_ == 0) loop_done_.notify_one();
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
