#include "mini_engine/serve/running_batch.hpp"

#include <algorithm>
#include <exception>
#include <functional>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::serve {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// What went wrong, out of a handler of any exception.
std::string current_message() {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

void check_placed(const PlacedPrompt& placed, int num_rows) {
  const std::vector<std::int32_t>& rows = placed.rows_to_compute;
  if (rows.empty() || rows.front() < 0 || rows.back() != num_rows - 1 ||
      std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) != rows.end()) {
    throw Error("prompt placer: the rows to compute do not ascend to the last of " + std::to_string(num_rows) +
                " rows");
  }
}

// How many of the rows from `done` on to compute now, at most `most`. A share that is not the last ends on a boundary
// of the prompt where it can, so that blocks of exact prefix are not cut between passes.
std::size_t share_of(const std::vector<std::int32_t>& rows, std::size_t done, std::size_t most) {
  constexpr std::int32_t kBoundary = 256;
  const std::size_t rest = rows.size() - done;
  if (rest <= most) return rest;
  for (std::size_t count = most; count > 0 && most - count < kBoundary; --count) {
    if (rows[done + count] % kBoundary == 0) return count;
  }
  return most;
}

}  // namespace

struct RunningBatch::Running {
  Running(Job admitted, PagedCache& cache)
      : job(std::move(admitted)), prompt(prompt_tokens(job.request)), sequence(cache), sampler(job.request.sampling) {}

  Job job;
  std::vector<TokenId> prompt;
  std::optional<Sequence> sequence;  // nothing once the request has ended
  Sampler sampler;
  std::int64_t num_reserved_pages = 0;
  PlacedPrompt placed;
  std::size_t num_placed_done = 0;  // of placed.rows_to_compute
  TokenId last_token = 0;
  Clock::time_point last_token_at;
  Outcome outcome;

  // Its share of the step in progress.
  std::vector<TokenId> tokens;
  std::vector<std::int32_t> rows;
  std::int32_t logit_row = 0;

  // No pass over the prompt will come any more.
  void let_go() {
    placed.observer = nullptr;
    placed.holder.reset();
  }
  [[nodiscard]] bool is_prefilled() const { return num_placed_done == placed.rows_to_compute.size(); }
};

void end_job(const Job& job, ServeMetrics& metrics, EndReason reason, std::string message) {
  metrics.ended.at(static_cast<std::size_t>(reason)).add();
  job.reply->finish({.reason = reason,
                     .message = std::move(message),
                     .num_prompt_tokens = static_cast<int>(num_prompt_tokens(job.request))});
}

std::int64_t max_rows(std::size_t prompt_size, int max_tokens, int num_positions) {
  return std::min<std::int64_t>(static_cast<std::int64_t>(prompt_size) + max_tokens - 1, num_positions);
}

RunningBatch::RunningBatch(Model& model, PagedCache& cache, PromptPlacer& placer, ServeMetrics& metrics,
                           const BatchOptions& options)
    : model_(model),
      cache_(cache),
      placer_(placer),
      metrics_(metrics),
      options_(options),
      num_positions_(std::min(model.config().max_positions, model.rotary().num_positions)) {
  if (options.max_running < 1 || options.prefill_rows_per_step < 1) {
    throw Error("batch: max_running is " + std::to_string(options.max_running) + " and prefill_rows_per_step is " +
                std::to_string(options.prefill_rows_per_step) + "; both must be at least 1");
  }
  metrics_.free_pages.set(cache_.num_free_pages());
}

RunningBatch::~RunningBatch() { end_all(EndReason::kShutdown); }

std::int64_t RunningBatch::num_pages_for(std::int64_t num_rows) const {
  return (num_rows + cache_.page_size() - 1) / cache_.page_size();
}

std::int64_t RunningBatch::num_unreserved_pages() const {
  std::int64_t num_pages = cache_.num_free_pages();
  for (const auto& running : running_) {
    num_pages -= running->num_reserved_pages - static_cast<std::int64_t>(running->sequence->pages().size());
  }
  return num_pages;
}

bool RunningBatch::has_room_for(const Request& request) const {
  const std::int64_t num_rows = max_rows(num_prompt_tokens(request), request.max_tokens, num_positions_);
  return size() < options_.max_running && num_pages_for(num_rows) <= num_unreserved_pages();
}

void RunningBatch::admit(Job job) {
  running_.push_back(std::make_unique<Running>(std::move(job), cache_));
  Running& running = *running_.back();
  const int num_rows = static_cast<int>(running.prompt.size());
  running.outcome.num_prompt_tokens = num_rows;
  running.num_reserved_pages =
      num_pages_for(max_rows(running.prompt.size(), running.job.request.max_tokens, num_positions_));
  try {
    running.sequence->grow(num_rows);
    running.placed = placer_.place(running.job.request.segments, *running.sequence);
    check_placed(running.placed, num_rows);
    running.outcome.num_cached_tokens = num_rows - static_cast<int>(running.placed.rows_to_compute.size());
    metrics_.prompt_tokens.add(static_cast<std::uint64_t>(num_rows));
    metrics_.cached_tokens.add(static_cast<std::uint64_t>(running.outcome.num_cached_tokens));
  } catch (...) {
    end(running, EndReason::kFailed, current_message());
  }
  remove_ended();
}

std::vector<RunningBatch::Running*> RunningBatch::plan_passes() {
  std::vector<Running*> batch;
  auto num_prefill_rows = static_cast<std::size_t>(options_.prefill_rows_per_step);
  for (const auto& entry : running_) {
    Running& running = *entry;
    running.tokens.clear();
    running.rows.clear();
    if (running.is_prefilled()) {
      running.rows.push_back(running.sequence->size());
      running.tokens.push_back(running.last_token);
      running.sequence->grow(1);
    } else {
      const std::vector<std::int32_t>& rows = running.placed.rows_to_compute;
      const std::size_t count = share_of(rows, running.num_placed_done, num_prefill_rows);
      if (count == 0) continue;
      for (std::size_t i = 0; i < count; ++i) {
        const std::int32_t row = rows[running.num_placed_done++];
        running.rows.push_back(row);
        running.tokens.push_back(running.prompt[static_cast<std::size_t>(row)]);
      }
      num_prefill_rows -= count;
    }
    running.logit_row = static_cast<std::int32_t>(running.rows.size()) - 1;
    batch.push_back(&running);
  }
  return batch;
}

void RunningBatch::step() {
  for (const auto& running : running_) {
    if (!running->job.reply->is_wanted()) end(*running, EndReason::kCancelled);
  }
  remove_ended();

  std::vector<Running*> batch;
  try {
    batch = plan_passes();
    if (batch.empty()) return;
    std::vector<SequencePass> passes;
    std::vector<Sampler*> samplers;
    for (Running* running : batch) {
      const bool wants_logits = running->is_prefilled();
      passes.push_back({.pass = {.tokens = running->tokens,
                                 .rows = running->rows,
                                 .logit_rows = {&running->logit_row, wants_logits ? 1U : 0U},
                                 .documents = {},
                                 .observer = running->placed.observer},
                        .sequence = &*running->sequence});
      samplers.push_back(wants_logits ? &running->sampler : nullptr);
    }
    const std::vector<NextToken> next = model_.next_tokens(passes, samplers);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (batch[i]->is_prefilled()) take_token(*batch[i], next.at(i));
    }
  } catch (...) {
    const std::string message = current_message();
    for (Running* running : batch) {
      if (running->sequence) end(*running, EndReason::kFailed, message);
    }
    // Planning itself failed: whose fault it was cannot be told, and the same plan would fail again.
    if (batch.empty()) {
      for (const auto& running : running_) end(*running, EndReason::kFailed, message);
    }
  }
  remove_ended();
}

void RunningBatch::take_token(Running& running, const NextToken& next) {
  running.let_go();
  const std::vector<TokenId>& ends = model_.config().eos_ids;
  Reply::Reaction reaction = Reply::Reaction::kContinue;
  try {
    if (!next.error.empty()) throw Error(next.error);
    const TokenId token = next.token;
    if (std::find(ends.begin(), ends.end(), token) != ends.end()) return end(running, EndReason::kEndOfText);
    const Clock::time_point now = Clock::now();
    if (running.outcome.num_generated_tokens == 0) {
      metrics_.first_token_seconds.observe(seconds_between(running.job.accepted_at, now));
    } else {
      metrics_.inter_token_seconds.observe(seconds_between(running.last_token_at, now));
    }
    running.last_token_at = now;
    running.last_token = token;
    ++running.outcome.num_generated_tokens;
    metrics_.generated_tokens.add();
    reaction = running.job.reply->push(token);
  } catch (...) {
    return end(running, EndReason::kFailed, current_message());
  }
  if (reaction == Reply::Reaction::kStop) {
    end(running, EndReason::kStopped);
  } else if (reaction == Reply::Reaction::kCancel) {
    end(running, EndReason::kCancelled);
  } else if (running.outcome.num_generated_tokens == running.job.request.max_tokens) {
    end(running, EndReason::kTokenLimit);
  } else if (running.sequence->size() >= num_positions_) {
    end(running, EndReason::kContextLimit);
  }
}

void RunningBatch::end_all(EndReason reason) {
  for (const auto& running : running_) end(*running, reason);
  remove_ended();
}

// Gives the pages back; the reply hears of it in remove_ended(), when the request no longer counts as running.
void RunningBatch::end(Running& running, EndReason reason, std::string message) {
  running.outcome.reason = reason;
  running.outcome.message = std::move(message);
  running.let_go();
  running.sequence.reset();
}

void RunningBatch::remove_ended() {
  const auto ended = std::stable_partition(running_.begin(), running_.end(),
                                           [](const auto& running) { return running->sequence.has_value(); });
  std::vector<std::unique_ptr<Running>> done(std::make_move_iterator(ended), std::make_move_iterator(running_.end()));
  running_.erase(ended, running_.end());
  metrics_.running.set(size());
  metrics_.free_pages.set(cache_.num_free_pages());
  for (const auto& running : done) {
    metrics_.ended.at(static_cast<std::size_t>(running->outcome.reason)).add();
    running->job.reply->finish(running->outcome);
  }
}

}  // namespace mini_engine::serve
