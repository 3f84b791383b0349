#include "lab/run/workers.hpp"

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lab {

void run_workers(int num_workers, JobQueue& jobs, const std::function<void(JobQueue&)>& work) {
  std::mutex mutex;
  std::exception_ptr failure;
  const auto guarded = [&] {
    try {
      work(jobs);
    } catch (...) {
      jobs.stop();
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (int i = 1; i < num_workers; ++i) others.emplace_back(guarded);
    guarded();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace lab
