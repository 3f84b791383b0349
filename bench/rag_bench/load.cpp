#include "rag_bench/load.hpp"

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "mini_engine/error.hpp"
#include "rag_bench/made_up.hpp"

namespace rag_bench {
namespace {

using mini_engine::TokenId;
using mini_engine::serve::EndReason;
using mini_engine::serve::Outcome;
using mini_engine::serve::Reply;
using Clock = std::chrono::steady_clock;

/// What all replies write to.
class Book {
 public:
  [[nodiscard]] double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void started() {
    const std::lock_guard lock(mutex_);
    ++num_under_way_;
  }
  void refused() {
    const std::lock_guard lock(mutex_);
    --num_under_way_;
    ++result_.num_refused;
  }
  void ended(const Sample& sample, const std::vector<double>& gaps, const Outcome& outcome) {
    const std::lock_guard lock(mutex_);
    --num_under_way_;
    if (outcome.reason == EndReason::kFailed && failure_.empty()) failure_ = outcome.message;
    result_.samples.push_back(sample);
    result_.token_gaps.insert(result_.token_gaps.end(), gaps.begin(), gaps.end());
    changed_.notify_all();
  }
  /// Until fewer than `count` are under way.
  void wait_below(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return num_under_way_ < count; });
  }
  [[nodiscard]] LoadResult result() {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw mini_engine::Error("a request failed: " + failure_);
    result_.seconds = now();
    return std::move(result_);
  }

 private:
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  std::condition_variable changed_;
  int num_under_way_ = 0;
  LoadResult result_;
  std::string failure_;
};

class TimedReply final : public Reply {
 public:
  explicit TimedReply(Book& book) : book_(book) { sample_.sent = book.now(); }

  Reaction push(TokenId) override {
    const double now = book_.now();
    if (num_tokens_++ == 0) {
      sample_.first_token = now;
    } else {
      gaps_.push_back(now - last_);
    }
    last_ = now;
    return Reaction::kContinue;
  }
  void finish(const Outcome& outcome) noexcept override {
    sample_.finished = book_.now();
    sample_.num_prompt_tokens = outcome.num_prompt_tokens;
    sample_.num_cached_tokens = outcome.num_cached_tokens;
    sample_.num_generated_tokens = outcome.num_generated_tokens;
    book_.ended(sample_, gaps_, outcome);
  }

 private:
  Book& book_;
  Sample sample_;
  std::vector<double> gaps_;
  double last_ = 0;
  int num_tokens_ = 0;
};

/// When each request is to be sent, in seconds from the beginning.
class Arrivals {
 public:
  Arrivals(const Workload& workload, const LoadOptions& options)
      : workload_(workload), options_(options), random_(generator(options.seed, kArrivals, options.first_request)) {
    if (options.trace_speed > 0 && !workload.arrival(0)) {
      throw mini_engine::Error("open loop: the workload does not say when requests came");
    }
  }
  [[nodiscard]] bool are_given() const { return options_.requests_per_second > 0 || options_.trace_speed > 0; }
  /// Of request first_request + i; asked for once each, in order.
  [[nodiscard]] double next(int i) {
    const std::uint64_t first = options_.first_request;
    if (options_.trace_speed > 0) {
      const std::uint64_t index = first + static_cast<std::uint64_t>(i);
      return (*workload_.arrival(index) - *workload_.arrival(first)) / options_.trace_speed;
    }
    return last_ -= std::log(1.0 - fraction(random_)) / options_.requests_per_second;
  }

 private:
  static constexpr std::uint64_t kArrivals = 99;
  const Workload& workload_;
  const LoadOptions& options_;
  std::mt19937_64 random_;
  double last_ = 0;
};

}  // namespace

LoadResult run_load(mini_engine::serve::Scheduler& scheduler, const Workload& workload, const LoadOptions& options) {
  Book book;
  Arrivals arrivals(workload, options);
  for (int i = 0; i < options.num_requests; ++i) {
    auto request = workload.request(options.first_request + static_cast<std::uint64_t>(i));
    if (arrivals.are_given()) {
      std::this_thread::sleep_for(std::chrono::duration<double>(arrivals.next(i) - book.now()));
    } else {
      book.wait_below(options.concurrency);
    }
    book.started();
    const auto refusal = scheduler.submit(std::move(request), std::make_shared<TimedReply>(book));
    if (!refusal) continue;
    book.refused();
    if (refusal->reason == mini_engine::serve::Refusal::Reason::kQueueFull) continue;
    book.wait_below(1);  // replies write to the book
    throw mini_engine::Error("a request was refused: " + refusal->message);
  }
  book.wait_below(1);
  return book.result();
}

}  // namespace rag_bench
