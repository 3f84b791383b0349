// Prompts placed from a store under the batch: the same tokens as when everything is computed, or as when the same
// chunks are served one by one.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/generate.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/serve/chunk_placer.hpp"
#include "mini_engine/serve/running_batch.hpp"
#include "support/engine_runs.hpp"
#include "support/serve_runs.hpp"

namespace {

using namespace mini_engine;
using namespace mini_engine::serve;
using test_support::RecordingReply;
using Clock = std::chrono::steady_clock;

constexpr int kPageSize = 8;
constexpr int kNumPages = 256;

std::vector<TokenId> tokens_of(int count, unsigned seed) { return test_support::random_tokens(count, 101, seed); }

Request request_of(const std::vector<std::vector<TokenId>>& documents, std::vector<TokenId> question) {
  Request request;
  for (const std::vector<TokenId>& document : documents) {
    request.segments.push_back({.kind = PromptSegment::Kind::kDocument, .tokens = document});
  }
  request.segments.push_back({.tokens = std::move(question)});
  request.max_tokens = 6;
  return request;
}

/// A batch over a store, stepped by hand.
struct Bench {
  explicit Bench(const ChunkPlacerOptions& options, std::int64_t capacity_bytes = 64 << 20, int prefill_rows = 1000)
      : model(CpuModel::random(test_support::small_config(), 21, {.num_threads = 2})),
        cache(model.config(), Precision::kFloat32, kNumPages, kPageSize),
        scratch(model.config(), Precision::kFloat32, kNumPages, kPageSize),
        server(model, scratch, {}, {.capacity_bytes = capacity_bytes, .num_threads = 2, .prefix_block_tokens = 8}),
        placer(server, metrics, options),
        batch(model, cache, placer, metrics, {.prefill_rows_per_step = prefill_rows}) {}

  std::shared_ptr<RecordingReply> admit(const Request& request) {
    auto reply = std::make_shared<RecordingReply>();
    batch.admit({request, reply, Clock::now()});
    return reply;
  }
  void run() {
    while (batch.size() > 0) batch.step();
  }

  CpuModel model;
  PagedCache cache;
  PagedCache scratch;
  ChunkServer server;
  ServeMetrics metrics;
  ChunkPlacer placer;
  RunningBatch batch;
};

std::vector<TokenId> computed(const Request& request) {
  CpuModel model = CpuModel::random(test_support::small_config(), 21, {.num_threads = 2});
  PagedCache cache(model.config(), Precision::kFloat32, kNumPages, kPageSize);
  Sequence sequence(cache);
  Sampler sampler(request.sampling);
  return generate(model, sequence, prompt_tokens(request), sampler, request.max_tokens).tokens;
}

/// Of the first rows of every chunk; null for none.
std::shared_ptr<const pikv::RepairPolicy> repair_of(std::int32_t num_rows) {
  if (num_rows == 0) return nullptr;
  return take(pikv::make_first_rows_repair({.num_rows = num_rows}));
}

/// By the bridge alone.
std::vector<TokenId> served_alone(const Request& request, std::int32_t repaired) {
  CpuModel model = CpuModel::random(test_support::small_config(), 21, {.num_threads = 2});
  PagedCache cache(model.config(), Precision::kFloat32, kNumPages, kPageSize);
  ChunkServer server(model, cache, {}, {.num_threads = 2});
  pikv::Prompt prompt;
  for (const PromptSegment& segment : request.segments) {
    if (segment.kind == PromptSegment::Kind::kDocument) {
      (void)server.encode_chunk(segment.tokens, {});
      prompt.add_chunk(segment.tokens, server.recipe({}));
    } else {
      prompt.add_fresh(segment.tokens);
    }
  }
  Sequence sequence(cache);
  const std::shared_ptr<const pikv::RepairPolicy> repair = repair_of(repaired);
  Prefill prefill = server.prefill(prompt, sequence, {.repair = repair.get()});
  Sampler sampler(request.sampling);
  return decode(model, sequence, std::move(prefill.logits), sampler, request.max_tokens).tokens;
}

TEST_CASE("documents are encoded once and reused in any order, as if each request were served alone") {
  const std::vector<std::vector<TokenId>> documents{tokens_of(40, 1), tokens_of(17, 2), tokens_of(64, 3)};
  for (const std::int32_t repaired : {0, 5}) {
    for (const int prefill_rows : {1000, 3}) {
      CAPTURE(repaired);
      CAPTURE(prefill_rows);
      Bench bench({.repair = repair_of(repaired)}, 64 << 20, prefill_rows);
      const std::vector<Request> requests{request_of({documents[0], documents[1], documents[2]}, tokens_of(9, 4)),
                                          request_of({documents[2], documents[0], documents[1]}, tokens_of(12, 5)),
                                          request_of({documents[1], documents[2], documents[0]}, tokens_of(5, 6))};
      std::vector<std::shared_ptr<RecordingReply>> replies;
      for (const Request& request : requests) {
        replies.push_back(bench.admit(request));
        bench.batch.step();
      }
      bench.run();
      for (std::size_t i = 0; i < requests.size(); ++i) {
        CAPTURE(i);
        CHECK(replies[i]->tokens() == served_alone(requests[i], repaired));
        CHECK(replies[i]->outcome()->num_cached_tokens == 121 - 2 * repaired);
      }
      CHECK(bench.metrics.encoded_document_tokens.value() == 121);
      CHECK(bench.metrics.exact_tokens.value() == 40 + 64 + 17);
      CHECK(bench.metrics.approximate_tokens.value() == 3 * 121 - 121 - 3 * 2 * static_cast<unsigned>(repaired));
      CHECK(bench.metrics.repaired_tokens.value() == 3 * 2 * static_cast<unsigned>(repaired));
      CHECK(bench.cache.num_free_pages() == kNumPages);
      CHECK(bench.scratch.num_free_pages() == kNumPages);
    }
  }
}

TEST_CASE("a repair policy that a batch cannot follow is refused before any request comes") {
  for (const std::string spec : {"blend:0.2", "attention:0.2", "prophet:0.2", "attended-deviation:0.2", "focus:0.2"}) {
    CHECK_THROWS_WITH_AS(Bench({.repair = take(pikv::make_repair_policy(spec))}),
                         ("repair: the policy '" + spec +
                          "' chooses rows while it computes, which only a request served on its own can do")
                             .c_str(),
                         Error);
  }
  for (const char* spec : {"none", "all", "first:3", "ends:3", "random:0.2"}) {
    CHECK_NOTHROW(Bench({.repair = take(pikv::make_repair_policy(spec))}));
  }
}

TEST_CASE("exact prefixes change nothing but what is computed, also where shares of a prompt are small") {
  for (const int prefill_rows : {1000, 256}) {
    CAPTURE(prefill_rows);
    Bench bench({.use_chunks = false}, 64 << 20, prefill_rows);
    const std::vector<TokenId> document = tokens_of(500, 1);
    const Request first = request_of({document}, tokens_of(9, 2));
    const Request second = request_of({document}, tokens_of(11, 3));
    const auto a = bench.admit(first);
    bench.run();
    const auto b = bench.admit(second);
    bench.run();
    CHECK(a->tokens() == computed(first));
    CHECK(a->outcome()->num_cached_tokens == 0);
    CHECK(b->tokens() == computed(second));
    CHECK(b->outcome()->num_cached_tokens == 496);  // whole blocks of 8
  }
}

TEST_CASE("a store without room computes, one with little room forgets") {
  const std::vector<TokenId> document = tokens_of(60, 1);
  const Request request = request_of({tokens_of(20, 9), document}, tokens_of(7, 2));
  Bench without({}, 1000);
  const auto reply = without.admit(request);
  without.run();
  CHECK(reply->tokens() == computed(request));
  CHECK(reply->outcome()->num_cached_tokens == 0);

  const std::int64_t token_bytes = std::int64_t{2} * 4 * test_support::small_config().num_layers *
                                   test_support::small_config().num_kv_heads * test_support::small_config().head_dim;
  Bench little({}, 70 * token_bytes + 4096);
  for (unsigned i = 0; i < 4; ++i) {
    const Request other = request_of({tokens_of(60, 20 + i)}, tokens_of(7, 3));
    const auto answered = little.admit(other);
    little.run();
    CHECK(answered->outcome()->reason == EndReason::kTokenLimit);
    CHECK(answered->outcome()->num_cached_tokens == 60);
  }
  CHECK(little.server.store().stats().evictions >= 3);
}

TEST_CASE("documents longer than allowed are text") {
  Bench bench({.max_document_tokens = 30});
  const Request request = request_of({tokens_of(20, 1), tokens_of(31, 2)}, tokens_of(7, 2));
  const auto reply = bench.admit(request);
  bench.run();
  CHECK(reply->outcome()->num_cached_tokens == 20);
  CHECK(bench.metrics.encoded_document_tokens.value() == 20);
}

TEST_CASE("documents that were sent before are found in text, the oldest forgotten first") {
  const std::vector<TokenId> document = tokens_of(50, 1);
  const std::vector<TokenId> other = tokens_of(40, 2);
  for (const std::int64_t room : {0, 60, 1000}) {
    CAPTURE(room);
    Bench bench({.max_known_tokens = room});
    (void)bench.admit(request_of({document, other}, tokens_of(7, 3)));
    bench.run();
    std::vector<TokenId> text = tokens_of(11, 4);
    for (const std::vector<TokenId>* part : {&document, &other}) text.insert(text.end(), part->begin(), part->end());
    text.push_back(5);
    const auto reply = bench.admit(request_of({}, text));
    bench.run();
    CHECK(reply->outcome()->num_cached_tokens == (room == 0 ? 0 : room == 60 ? 40 : 90));
    CHECK(bench.metrics.encoded_document_tokens.value() == 90);
  }
}

TEST_CASE("a request that is given up in the midst of its prompt leaves pages and store as they should be") {
  Bench bench({}, 64 << 20, 2);
  const Request request = request_of({tokens_of(40, 1)}, tokens_of(30, 2));
  const auto reply = bench.admit(request);
  bench.batch.step();
  reply->abandon();
  bench.run();
  CHECK(reply->outcome()->reason == EndReason::kCancelled);
  CHECK(bench.cache.num_free_pages() == kNumPages);
  const auto again = bench.admit(request);
  bench.run();
  CHECK(again->tokens() == served_alone(request, 0));
}

}  // namespace
