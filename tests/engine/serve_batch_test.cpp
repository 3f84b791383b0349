#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/generate.hpp"
#include "mini_engine/serve/running_batch.hpp"
#include "support/engine_runs.hpp"
#include "support/serve_runs.hpp"

namespace {

using namespace mini_engine;
using namespace mini_engine::serve;
using test_support::RecordingReply;
using test_support::WatchedModel;
using Clock = std::chrono::steady_clock;

constexpr int kPageSize = 4;

Request request_of(std::vector<TokenId> prompt, int max_tokens, SamplerOptions sampling = {}) {
  Request request;
  request.segments.push_back({.tokens = std::move(prompt)});
  request.max_tokens = max_tokens;
  request.sampling = sampling;
  return request;
}

/// A batch that is stepped by hand.
struct Bench {
  explicit Bench(
      int num_pages, const BatchOptions& options = {}, WatchedModel::Watch watch = [](auto) {})
      : cpu(CpuModel::random(test_support::small_config(), 21, {.num_threads = 2})),
        model(cpu, std::move(watch)),
        cache(cpu.config(), Precision::kFloat32, num_pages, kPageSize),
        batch(model, cache, placer, metrics, options) {}

  std::shared_ptr<RecordingReply> admit(Request request) {
    auto reply = std::make_shared<RecordingReply>();
    batch.admit({std::move(request), reply, Clock::now()});
    return reply;
  }
  void run() {
    while (batch.size() > 0) batch.step();
  }

  CpuModel cpu;
  WatchedModel model;
  PagedCache cache;
  ComputingPlacer placer;
  ServeMetrics metrics;
  RunningBatch batch;
};

std::vector<TokenId> alone(const Request& request) {
  CpuModel model = CpuModel::random(test_support::small_config(), 21, {.num_threads = 2});
  PagedCache cache(model.config(), Precision::kFloat32, 64, kPageSize);
  Sequence sequence(cache);
  Sampler sampler(request.sampling);
  return generate(model, sequence, prompt_tokens(request), sampler, request.max_tokens).tokens;
}

TEST_CASE("every request of a batch gets what it gets alone, whatever the order and the share of prefill") {
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) {
    const SamplerOptions sampling{.temperature = i % 2 == 0 ? 0.0F : 0.9F, .top_p = 0.8F, .seed = 7};
    requests.push_back(
        request_of(test_support::random_tokens(1 + 9 * i, 101, static_cast<unsigned>(i)), 4 + i, sampling));
  }
  std::vector<std::vector<TokenId>> expected;
  for (const Request& request : requests) expected.push_back(alone(request));

  for (const int prefill_rows : {1, 7, 1000}) {
    for (const bool is_reversed : {false, true}) {
      CAPTURE(prefill_rows);
      Bench bench(100, {.prefill_rows_per_step = prefill_rows});
      std::vector<std::shared_ptr<RecordingReply>> replies(requests.size());
      for (std::size_t i = 0; i < requests.size(); ++i) {
        const std::size_t at = is_reversed ? requests.size() - 1 - i : i;
        REQUIRE(bench.batch.has_room_for(requests[at]));
        replies[at] = bench.admit(requests[at]);
        bench.batch.step();
      }
      bench.run();
      for (std::size_t i = 0; i < requests.size(); ++i) {
        CAPTURE(i);
        CHECK(replies[i]->tokens() == expected[i]);
        REQUIRE(replies[i]->num_ends() == 1);
        CHECK(replies[i]->outcome()->reason == EndReason::kTokenLimit);
        CHECK(replies[i]->outcome()->num_prompt_tokens == 1 + 9 * static_cast<int>(i));
        CHECK(replies[i]->outcome()->num_generated_tokens == static_cast<int>(expected[i].size()));
      }
      CHECK(bench.cache.num_free_pages() == 100);
      CHECK(bench.metrics.generated_tokens.value() == 4 + 5 + 6 + 7 + 8 + 9);
    }
  }
}

TEST_CASE("a step computes no more prompt rows than allowed, and a row of every request that generates") {
  std::vector<std::vector<std::size_t>> steps;
  Bench bench(100, {.prefill_rows_per_step = 5}, [&](std::span<const SequencePass> passes) {
    steps.emplace_back();
    for (const SequencePass& pass : passes) steps.back().push_back(pass.pass.rows.size());
  });
  (void)bench.admit(request_of({1, 2}, 4));
  (void)bench.admit(request_of(test_support::random_tokens(9, 101, 1), 2));
  bench.run();
  const std::vector<std::vector<std::size_t>> expected = {{2, 3}, {1, 5}, {1, 1}, {1, 1}};
  CHECK(steps == expected);
}

TEST_CASE("a request is admitted only where its last token still has a page") {
  Bench bench(6);
  // Rows: 5 of the prompt, and 11 - 1 tokens fed back: 15, four pages.
  const Request request = request_of({1, 2, 3, 4, 5}, 11);
  REQUIRE(bench.batch.has_room_for(request));
  const auto reply = bench.admit(request);
  CHECK(bench.cache.num_free_pages() == 4);  // held: two pages; set aside: two more
  CHECK(bench.batch.has_room_for(request_of({1}, 8)));
  CHECK_FALSE(bench.batch.has_room_for(request_of({1}, 9)));
  bench.run();
  CHECK(reply->outcome()->reason == EndReason::kTokenLimit);
  CHECK(bench.cache.num_free_pages() == 6);
  CHECK(bench.batch.has_room_for(request_of({1}, 24)));
  CHECK_FALSE(bench.batch.has_room_for(request_of({1}, 25)));
  CHECK(bench.metrics.free_pages.value() == 6);
}

TEST_CASE("end tokens, the reply's word and the model's positions end a request") {
  const Request request = request_of({5, 17, 3, 99, 0}, 8);
  const std::vector<TokenId> tokens = alone(request);
  REQUIRE(tokens.size() == 8);

  Bench bench(20);
  const auto stopped = bench.admit(request);
  stopped->react(3, RecordingReply::Reaction::kStop);
  const auto cancelled = bench.admit(request);
  cancelled->react(5, RecordingReply::Reaction::kCancel);
  const auto abandoned = bench.admit(request);
  bench.batch.step();
  abandoned->abandon();
  bench.run();
  CHECK(stopped->outcome()->reason == EndReason::kStopped);
  CHECK(stopped->tokens() == std::vector<TokenId>(tokens.begin(), tokens.begin() + 3));
  CHECK(cancelled->outcome()->reason == EndReason::kCancelled);
  CHECK(cancelled->tokens() == std::vector<TokenId>(tokens.begin(), tokens.begin() + 5));
  CHECK(abandoned->outcome()->reason == EndReason::kCancelled);
  CHECK(abandoned->tokens().size() == 1);

  ModelConfig config = test_support::small_config();
  config.max_positions = 7;
  CpuModel narrow = CpuModel::random(config, 21, {.num_threads = 1});
  PagedCache cache(config, Precision::kFloat32, 2, kPageSize);
  ComputingPlacer placer;
  ServeMetrics metrics;
  RunningBatch batch(narrow, cache, placer, metrics, {});
  REQUIRE(batch.has_room_for(request));
  const auto limited = std::make_shared<RecordingReply>();
  batch.admit({request, limited, Clock::now()});
  while (batch.size() > 0) batch.step();
  CHECK(limited->outcome()->reason == EndReason::kContextLimit);
  CHECK(limited->tokens() == std::vector<TokenId>(tokens.begin(), tokens.begin() + 3));

  config = test_support::small_config();
  config.eos_ids = {tokens[4]};
  const auto first = std::find(tokens.begin(), tokens.end(), tokens[4]);
  CpuModel ended = CpuModel::random(config, 21, {.num_threads = 1});
  PagedCache pages(config, Precision::kFloat32, 4, kPageSize);
  RunningBatch ending(ended, pages, placer, metrics, {});
  const auto at_end = std::make_shared<RecordingReply>();
  ending.admit({request, at_end, Clock::now()});
  while (ending.size() > 0) ending.step();
  CHECK(at_end->outcome()->reason == EndReason::kEndOfText);
  CHECK(at_end->tokens() == std::vector<TokenId>(tokens.begin(), first));
}

TEST_CASE("what the model throws fails the requests of that batch, and no later ones") {
  int num_calls = 0;
  Bench bench(20, {}, [&](auto) {
    if (++num_calls == 2) throw std::runtime_error("the device is on fire");
  });
  const auto first = bench.admit(request_of({1, 2}, 5));
  const auto second = bench.admit(request_of({3}, 5));
  bench.run();
  for (const auto& reply : {first, second}) {
    CHECK(reply->outcome()->reason == EndReason::kFailed);
    CHECK(reply->outcome()->message == "the device is on fire");
    CHECK(reply->tokens().size() == 1);
    CHECK(reply->num_ends() == 1);
  }
  CHECK(bench.cache.num_free_pages() == 20);
  const auto third = bench.admit(request_of({1, 2}, 5));
  bench.run();
  CHECK(third->tokens() == alone(request_of({1, 2}, 5)));
}

/// Provides rows [1, 4) of every prompt out of a sequence that has them.
class CopyingPlacer final : public PromptPlacer {
 public:
  explicit CopyingPlacer(const Sequence& source) : source_(source) {}
  PlacedPrompt place(std::span<const PromptSegment> segments, Sequence& sequence) override {
    if (segments[0].kind == PromptSegment::Kind::kDocument) throw Error("no document may come first");
    auto* data = reinterpret_cast<float*>(sequence.cache().data());
    const PagedCache::Strides& s = sequence.cache().strides();
    const auto offset = [&](const Sequence& of, int layer, std::size_t row) {
      const Slot slot = of.slots()[row];
      return layer * s.layer + slot / kPageSize * s.page + slot % kPageSize * s.token;
    };
    for (int layer = 0; layer < 3; ++layer) {
      for (std::size_t row = 1; row < 4; ++row) {
        for (const std::int64_t half : {std::int64_t{0}, s.value_offset}) {
          std::copy_n(data + offset(source_, layer, row) + half, s.token, data + offset(sequence, layer, row) + half);
        }
      }
    }
    PlacedPrompt placed;
    placed.rows_to_compute.push_back(0);
    for (int row = 4; row < sequence.size(); ++row) placed.rows_to_compute.push_back(row);
    return placed;
  }

 private:
  const Sequence& source_;
};

TEST_CASE("rows that a placer provides are not computed, and what it throws or gets wrong fails one request") {
  CpuModel model = CpuModel::random(test_support::small_config(), 21, {.num_threads = 2});
  PagedCache cache(model.config(), Precision::kFloat32, 40, kPageSize);
  const std::vector<TokenId> prompt = test_support::random_tokens(10, 101, 3);
  Sequence source(cache);
  source.grow(10);
  (void)test_support::run_rows(model, source, prompt, 0, 10);

  CopyingPlacer placer(source);
  ServeMetrics metrics;
  RunningBatch batch(model, cache, placer, metrics, {.prefill_rows_per_step = 3});
  const auto served = std::make_shared<RecordingReply>();
  batch.admit({request_of(prompt, 6), served, Clock::now()});
  Request document_first = request_of(prompt, 6);
  document_first.segments[0].kind = PromptSegment::Kind::kDocument;
  const auto refused = std::make_shared<RecordingReply>();
  batch.admit({document_first, refused, Clock::now()});
  CHECK(refused->outcome()->message == "no document may come first");
  while (batch.size() > 0) batch.step();
  CHECK(served->tokens() == alone(request_of(prompt, 6)));
  CHECK(served->outcome()->num_cached_tokens == 3);
  CHECK(metrics.cached_tokens.value() == 3);

  struct ForgetfulPlacer final : PromptPlacer {
    PlacedPrompt place(std::span<const PromptSegment>, Sequence&) override { return {.rows_to_compute = {0, 1}}; }
  } forgetful;
  RunningBatch incomplete(model, cache, forgetful, metrics, {});
  const auto reply = std::make_shared<RecordingReply>();
  incomplete.admit({request_of(prompt, 6), reply, Clock::now()});
  CHECK(reply->outcome()->reason == EndReason::kFailed);
  CHECK(reply->outcome()->message == "prompt placer: the rows to compute do not ascend to the last of 10 rows");
  CHECK(cache.num_free_pages() == 40 - static_cast<int>(source.pages().size()));
}

}  // namespace
