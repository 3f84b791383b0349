#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/generate.hpp"
#include "mini_engine/serve/scheduler.hpp"
#include "support/engine_runs.hpp"
#include "support/serve_runs.hpp"

namespace {

using namespace mini_engine;
using namespace mini_engine::serve;
using std::chrono::milliseconds;
using test_support::Gate;
using test_support::RecordingReply;
using test_support::WatchedModel;

Request request_of(std::vector<TokenId> prompt, int max_tokens) {
  Request request;
  request.segments.push_back({.tokens = std::move(prompt)});
  request.max_tokens = max_tokens;
  return request;
}

struct Bench {
  explicit Bench(
      int num_pages, const SchedulerOptions& options = {}, WatchedModel::Watch watch = [](auto) {})
      : cpu(CpuModel::random(test_support::small_config(), 21, {.num_threads = 1})),
        model(cpu, std::move(watch)),
        cache(cpu.config(), Precision::kFloat32, num_pages, 4),
        scheduler(model, cache, placer, metrics, options) {}

  std::shared_ptr<RecordingReply> submit(Request request) {
    auto reply = std::make_shared<RecordingReply>();
    CHECK_FALSE(scheduler.submit(std::move(request), reply).has_value());
    return reply;
  }
  Refusal refused(Request request) {
    const auto reply = std::make_shared<RecordingReply>();
    const std::optional<Refusal> refusal = scheduler.submit(std::move(request), reply);
    REQUIRE(refusal.has_value());
    CHECK(reply->num_ends() == 0);
    return *refusal;
  }

  CpuModel cpu;
  WatchedModel model;
  PagedCache cache;
  ComputingPlacer placer;
  ServeMetrics metrics;
  Scheduler scheduler;
};

TEST_CASE("requests that can never be served are refused with the reason") {
  Bench bench(10);
  using Reason = Refusal::Reason;
  CHECK(bench.refused(request_of({}, 3)).message == "the prompt has no tokens");
  CHECK(bench.refused(request_of({1}, 0)).message == "max_tokens is 0, not at least 1");
  CHECK(bench.refused(request_of({1, 101}, 3)).message == "prompt token 1 is 101, the vocabulary has 101");
  Request hot = request_of({1}, 3);
  hot.sampling.temperature = -1.0F;
  CHECK(bench.refused(hot).reason == Reason::kInvalid);

  const Refusal too_long = bench.refused(request_of(std::vector<TokenId>(41, 1), 1));
  CHECK(too_long.reason == Reason::kTooLong);
  CHECK(too_long.message == "the prompt has 41 tokens and may grow to 41 rows, the cache holds 40");
  CHECK(bench.refused(request_of(std::vector<TokenId>(20, 1), 22)).reason == Reason::kTooLong);
  CHECK(bench.refused(request_of(std::vector<TokenId>(601, 1), 1)).message ==
        "the prompt has 601 tokens, the model 600 positions");
  CHECK(bench.submit(request_of(std::vector<TokenId>(20, 1), 21))->outcome()->reason == EndReason::kTokenLimit);
  CHECK(bench.metrics.refused[static_cast<std::size_t>(Reason::kTooLong)].value() == 3);
  CHECK(bench.metrics.refused[static_cast<std::size_t>(Reason::kInvalid)].value() == 4);
  CHECK_THROWS_AS((void)bench.scheduler.submit(request_of({1}, 1), nullptr), Error);
  CHECK_THROWS_AS(Bench(10, {.max_queued = 0}), Error);
  CHECK_THROWS_AS(Bench(10, {.batch = {.max_running = 0}}), Error);
}

TEST_CASE("a full queue refuses; those who wait can be cancelled and are served in order") {
  Gate gate;
  Bench bench(3, {.max_queued = 2, .batch = {.max_running = 1}}, [&](auto) { gate.pass(); });
  const auto first = bench.submit(request_of({1, 2}, 3));
  gate.wait_for_arrival();
  const auto second = bench.submit(request_of({3}, 3));
  const auto third = bench.submit(request_of({4}, 3));
  const Refusal refusal = bench.refused(request_of({5}, 3));
  CHECK(refusal.reason == Refusal::Reason::kQueueFull);
  CHECK(refusal.message == "the queue is full: 2 requests are waiting");
  CHECK(bench.metrics.queued.value() == 2);
  second->abandon();
  gate.open();
  CHECK(first->outcome()->reason == EndReason::kTokenLimit);
  CHECK(second->outcome()->reason == EndReason::kCancelled);
  CHECK(second->tokens().empty());
  CHECK(third->outcome()->reason == EndReason::kTokenLimit);
  CHECK(bench.metrics.queued.value() == 0);
}

TEST_CASE("stopping lets running requests finish and ends those that wait") {
  Gate gate;
  Bench bench(3, {.batch = {.max_running = 1}}, [&](auto) { gate.pass(); });
  const auto running = bench.submit(request_of({1, 2}, 8));
  gate.wait_for_arrival();
  const auto waiting = bench.submit(request_of({3}, 3));
  std::thread stopper([&] { bench.scheduler.stop(std::chrono::hours(1)); });
  while (!bench.scheduler.is_stopping()) std::this_thread::yield();
  CHECK(bench.refused(request_of({5}, 3)).reason == Refusal::Reason::kStopping);
  gate.open();
  stopper.join();
  CHECK(running->outcome()->reason == EndReason::kTokenLimit);
  CHECK(running->tokens().size() == 8);
  CHECK(waiting->outcome()->reason == EndReason::kShutdown);
  bench.scheduler.stop(milliseconds(0));
  CHECK(running->num_ends() == 1);
  CHECK(waiting->num_ends() == 1);
}

TEST_CASE("the deadline of a stop, and a second stop's earlier one, end what still runs") {
  Bench bench(200, {}, [](auto) { std::this_thread::sleep_for(milliseconds(5)); });
  const auto reply = bench.submit(request_of({1, 2}, 500));
  reply->wait_for_tokens(2);
  std::thread patient([&] { bench.scheduler.stop(std::chrono::hours(1)); });
  while (!bench.scheduler.is_stopping()) std::this_thread::yield();
  CHECK(reply->num_ends() == 0);
  bench.scheduler.stop(milliseconds(20));
  patient.join();
  CHECK(reply->outcome()->reason == EndReason::kShutdown);
  CHECK(reply->tokens().size() >= 2);
  CHECK(reply->tokens().size() < 500);
  CHECK(bench.cache.num_free_pages() == 200);
}

TEST_CASE("pages that somebody else holds fail a request rather than hang it") {
  Bench bench(3);
  Sequence foreign(bench.cache);
  foreign.grow(5);
  const auto reply = bench.submit(request_of({1, 2}, 10));
  CHECK(reply->outcome()->reason == EndReason::kFailed);
  CHECK(reply->outcome()->message == "pages of the cache are held by somebody else");
  bench.scheduler.stop(milliseconds(0));  // the cache is the engine thread's until then
}

TEST_CASE("four clients: every accepted request ends exactly once, with its own tokens, within the pages") {
  constexpr int kNumPages = 24;
  std::atomic<int> most_pages{0};
  Bench bench(kNumPages, {.max_queued = 5, .batch = {.max_running = 4, .prefill_rows_per_step = 6}},
              [&](std::span<const SequencePass> passes) {
                int num_pages = 0;
                for (const SequencePass& pass : passes) num_pages += static_cast<int>(pass.sequence->pages().size());
                most_pages = std::max(most_pages.load(), num_pages);
              });
  struct Sent {
    Request request;
    std::shared_ptr<RecordingReply> reply;
    bool is_cancelled = false;
  };
  std::vector<std::vector<Sent>> sent(4);
  std::atomic<int> num_refused{0};
  std::vector<std::thread> clients;
  for (unsigned c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937 random(c);
      for (unsigned i = 0; i < 25; ++i) {
        const auto size = static_cast<int>(1 + random() % 20);
        Sent one{request_of(test_support::random_tokens(size, 101, c * 100 + i), static_cast<int>(1 + random() % 9)),
                 std::make_shared<RecordingReply>()};
        one.is_cancelled = random() % 4 == 0;
        while (const auto refusal = bench.scheduler.submit(one.request, one.reply)) {
          if (refusal->reason != Refusal::Reason::kQueueFull) return;
          ++num_refused;
          std::this_thread::sleep_for(milliseconds(1));
        }
        if (one.is_cancelled) one.reply->abandon();
        sent[c].push_back(std::move(one));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  bench.scheduler.stop(std::chrono::minutes(1));

  CpuModel model = CpuModel::random(test_support::small_config(), 21, {.num_threads = 1});
  PagedCache cache(model.config(), Precision::kFloat32, 16, 4);
  std::uint64_t num_shut_down = 0;
  for (const auto& of_client : sent) {
    CHECK(of_client.size() == 25);
    for (const Sent& one : of_client) {
      REQUIRE(one.reply->num_ends() == 1);
      const EndReason reason = one.reply->outcome()->reason;
      num_shut_down += reason == EndReason::kShutdown ? 1 : 0;
      Sequence sequence(cache);
      Sampler sampler({});
      const std::vector<TokenId> expected =
          generate(model, sequence, prompt_tokens(one.request), sampler, one.request.max_tokens).tokens;
      const std::vector<TokenId> tokens = one.reply->tokens();
      REQUIRE(tokens.size() <= expected.size());
      CHECK(std::equal(tokens.begin(), tokens.end(), expected.begin()));
      if (reason == EndReason::kTokenLimit) CHECK(tokens.size() == expected.size());
      if (!one.is_cancelled) CHECK((reason == EndReason::kTokenLimit || reason == EndReason::kShutdown));
    }
  }
  CHECK(most_pages <= kNumPages);
  CHECK(most_pages > 0);
  CHECK(num_shut_down <= 5);  // no more than can wait
  CHECK(bench.cache.num_free_pages() == kNumPages);
  std::uint64_t num_ended = 0;
  for (const Counter& counter : bench.metrics.ended) num_ended += counter.value();
  CHECK(num_ended == 100);
  CHECK(bench.metrics.refused[static_cast<std::size_t>(Refusal::Reason::kQueueFull)].value() ==
        static_cast<std::uint64_t>(num_refused));
}

}  // namespace
