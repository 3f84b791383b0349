#include "mini_engine/serve/scheduler.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::serve {

Scheduler::Scheduler(Model& model, PagedCache& cache, PromptPlacer& placer, ServeMetrics& metrics,
                     const SchedulerOptions& options)
    : metrics_(metrics),
      options_(options),
      num_positions_(std::min(model.config().max_positions, model.rotary().num_positions)),
      vocab_size_(model.config().vocab_size),
      page_size_(cache.page_size()),
      num_pages_(cache.num_pages()),
      batch_(model, cache, placer, metrics, options.batch) {
  if (options.max_queued < 1) {
    throw Error("scheduler: max_queued is " + std::to_string(options.max_queued) + ", not at least 1");
  }
  engine_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() { stop(std::chrono::milliseconds(0)); }

std::optional<Refusal> Scheduler::check(const Request& request) const {
  using Reason = Refusal::Reason;
  const std::vector<TokenId> prompt = prompt_tokens(request);
  if (prompt.empty()) return Refusal{Reason::kInvalid, "the prompt has no tokens"};
  if (request.max_tokens < 1) {
    return Refusal{Reason::kInvalid, "max_tokens is " + std::to_string(request.max_tokens) + ", not at least 1"};
  }
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= static_cast<TokenId>(vocab_size_)) {
      return Refusal{Reason::kInvalid, "prompt token " + std::to_string(i) + " is " + std::to_string(prompt[i]) +
                                           ", the vocabulary has " + std::to_string(vocab_size_)};
    }
  }
  try {
    (void)Sampler(request.sampling);
  } catch (const Error& error) {
    return Refusal{Reason::kInvalid, error.what()};
  }
  if (prompt.size() > static_cast<std::size_t>(num_positions_)) {
    return Refusal{Reason::kTooLong, "the prompt has " + std::to_string(prompt.size()) + " tokens, the model " +
                                         std::to_string(num_positions_) + " positions"};
  }
  const std::int64_t num_rows = max_rows(prompt.size(), request.max_tokens, num_positions_);
  if (num_rows > num_pages_ * page_size_) {
    return Refusal{Reason::kTooLong, "the prompt has " + std::to_string(prompt.size()) + " tokens and may grow to " +
                                         std::to_string(num_rows) + " rows, the cache holds " +
                                         std::to_string(num_pages_ * page_size_)};
  }
  return std::nullopt;
}

std::optional<Refusal> Scheduler::submit(Request request, std::shared_ptr<Reply> reply) {
  if (reply == nullptr) throw Error("scheduler: a request without a reply");
  std::optional<Refusal> refusal = check(request);
  if (!refusal) {
    const std::lock_guard lock(mutex_);
    if (deadline_) {
      refusal = Refusal{Refusal::Reason::kStopping, "the server is shutting down"};
    } else if (num_queued_ == static_cast<std::size_t>(options_.max_queued)) {
      refusal = Refusal{Refusal::Reason::kQueueFull,
                        "the queue is full: " + std::to_string(num_queued_) + " requests are waiting"};
    } else {
      inbox_.push_back({std::move(request), std::move(reply), Clock::now()});
      metrics_.queued.set(static_cast<std::int64_t>(++num_queued_));
    }
  }
  if (refusal) {
    metrics_.refused.at(static_cast<std::size_t>(refusal->reason)).add();
  } else {
    wake_.notify_one();
  }
  return refusal;
}

void Scheduler::stop(std::chrono::milliseconds grace) {
  {
    const std::lock_guard lock(mutex_);
    // Beyond a year the sum could overflow.
    const Clock::time_point deadline =
        Clock::now() + std::min<std::chrono::milliseconds>(grace, std::chrono::hours(8760));
    deadline_ = deadline_ ? std::min(*deadline_, deadline) : deadline;
  }
  wake_.notify_one();
  const std::lock_guard lock(join_mutex_);
  if (engine_.joinable()) engine_.join();
}

bool Scheduler::is_stopping() const {
  const std::lock_guard lock(mutex_);
  return deadline_.has_value();
}

void Scheduler::run() {
  while (collect()) {
    end_waiting(is_stopping_);
    if (is_past_deadline_) batch_.end_all(EndReason::kShutdown);
    admit_waiting();
    batch_.step();
  }
}

// Waits for something to do and takes in what has come; false when the server stops and nothing is left.
bool Scheduler::collect() {
  std::unique_lock lock(mutex_);
  if (batch_.size() == 0 && waiting_.empty()) {
    wake_.wait(lock, [this] { return deadline_ || !inbox_.empty(); });
  }
  std::move(inbox_.begin(), inbox_.end(), std::back_inserter(waiting_));
  inbox_.clear();
  is_stopping_ = deadline_.has_value();
  is_past_deadline_ = is_stopping_ && Clock::now() >= *deadline_;
  return !is_stopping_ || batch_.size() > 0 || !waiting_.empty();
}

void Scheduler::end_waiting(bool all) {
  const auto ended = std::stable_partition(waiting_.begin(), waiting_.end(),
                                           [all](const Job& job) { return !all && job.reply->is_wanted(); });
  std::vector<Job> done(std::make_move_iterator(ended), std::make_move_iterator(waiting_.end()));
  waiting_.erase(ended, waiting_.end());
  leave_queue(done.size());
  for (const Job& job : done) end_job(job, metrics_, all ? EndReason::kShutdown : EndReason::kCancelled);
}

void Scheduler::admit_waiting() {
  while (!waiting_.empty()) {
    const bool has_room = batch_.has_room_for(waiting_.front().request);
    if (!has_room && batch_.size() > 0) return;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    leave_queue(1);
    if (has_room) {
      batch_.admit(std::move(job));
    } else {
      // check() has seen that an empty cache could hold it.
      end_job(job, metrics_, EndReason::kFailed, "pages of the cache are held by somebody else");
    }
  }
}

void Scheduler::leave_queue(std::size_t count) {
  const std::lock_guard lock(mutex_);
  num_queued_ -= count;
  metrics_.queued.set(static_cast<std::int64_t>(num_queued_));
}

}  // namespace mini_engine::serve
