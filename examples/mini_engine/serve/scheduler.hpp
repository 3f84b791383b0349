// Continuous batching: requests from many threads, one engine thread that computes them together.
//
//   ComputingPlacer placer;
//   ServeMetrics metrics;
//   Scheduler scheduler(model, cache, placer, metrics, {});
//   if (auto refusal = scheduler.submit(request, reply)) ...;  // the reply hears nothing
//   scheduler.stop(std::chrono::seconds(30));                  // the reply has its outcome
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "mini_engine/serve/running_batch.hpp"

namespace mini_engine::serve {

struct SchedulerOptions {
  int max_queued = 64;  ///< accepted requests that wait for pages, at most
  BatchOptions batch = {};
};

/// Admits requests in order of acceptance, each as soon as the pages it may ever need are free, and steps the batch.
/// submit(), stop() and is_stopping() may be called from any threads at once, but not stop() from within a Reply.
/// Model, cache, placer and metrics must outlive it; model and cache belong to it while it lives.
class Scheduler {
 public:
  /// Throws Error for options below 1.
  Scheduler(Model& model, PagedCache& cache, PromptPlacer& placer, ServeMetrics& metrics,
            const SchedulerOptions& options);
  /// As stop() without grace.
  ~Scheduler();

  /// Nothing: the request is accepted and `reply`, not null, gets its outcome exactly once. Else why not.
  [[nodiscard]] std::optional<Refusal> submit(Request request, std::shared_ptr<Reply> reply);

  /// Refuses and ends whatever is not being computed yet, gives the running requests `grace` to finish, ends those that
  /// have not, and returns when every reply has its outcome. A step in progress is not interrupted. Of several calls
  /// the earliest deadline counts.
  void stop(std::chrono::milliseconds grace);
  [[nodiscard]] bool is_stopping() const;

  /// Positions that a prompt and its answer can have together.
  [[nodiscard]] int num_positions() const { return num_positions_; }

 private:
  using Clock = std::chrono::steady_clock;
  [[nodiscard]] std::optional<Refusal> check(const Request& request) const;
  void run();
  bool collect();
  void end_waiting(bool all);
  void admit_waiting();
  void leave_queue(std::size_t count);

  ServeMetrics& metrics_;
  SchedulerOptions options_;
  int num_positions_;
  int vocab_size_;
  int page_size_;
  std::int64_t num_pages_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> inbox_;                      // guarded by mutex_
  std::size_t num_queued_ = 0;                 // in inbox_ and waiting_; guarded by mutex_
  std::optional<Clock::time_point> deadline_;  // set: stopping; guarded by mutex_

  std::deque<Job> waiting_;  // engine thread only, as is batch_
  RunningBatch batch_;
  bool is_stopping_ = false;  // engine thread's view of deadline_
  bool is_past_deadline_ = false;

  std::mutex join_mutex_;  // taken before none
  std::thread engine_;     // joined under join_mutex_
};

}  // namespace mini_engine::serve
