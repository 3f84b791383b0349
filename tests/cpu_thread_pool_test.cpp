#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/thread_pool.hpp"
#include "pikv/backend.hpp"
#include "support/scenario.hpp"

namespace {

using pikv::cpu::ThreadPool;

TEST_CASE("every task runs exactly once, by a worker that runs nothing else meanwhile") {
  for (const std::int32_t num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    CHECK(pool.num_workers() == num_threads);
    std::vector<std::int64_t> scratch(static_cast<std::size_t>(num_threads), 0);  // one writer each, or TSan objects
    for (const std::int64_t num_tasks : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(num_tasks));
      pool.parallel_for(num_tasks, [&](std::int64_t task_index, std::int32_t worker_index) {
        runs[static_cast<std::size_t>(task_index)].fetch_add(1);
        scratch[static_cast<std::size_t>(worker_index)] += 1;
      });
      for (const std::atomic<int>& count : runs) CHECK(count.load() == 1);
    }
    std::int64_t total = 0;
    for (const std::int64_t count : scratch) total += count;
    CHECK(total == 1106);
  }
}

TEST_CASE("what tasks wrote is seen when the loop has returned") {
  ThreadPool pool(4);
  for (int repetition = 0; repetition < 200; ++repetition) {
    std::vector<std::int64_t> squares(64, -1);
    pool.parallel_for(64, [&](std::int64_t i, std::int32_t) { squares[static_cast<std::size_t>(i)] = i * i; });
    bool all = true;
    for (std::int64_t i = 0; i < 64; ++i) all = all && squares[static_cast<std::size_t>(i)] == i * i;
    CHECK(all);
  }
}

TEST_CASE("callers at the same time do not disturb one another") {
  ThreadPool pool(3);
  std::atomic<std::int64_t> total{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int repetition = 0; repetition < 100; ++repetition) {
        pool.parallel_for(17, [&](std::int64_t, std::int32_t) { total.fetch_add(1); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total.load() == 4 * 100 * 17);
}

TEST_CASE("0 or fewer threads mean one for each core") {
  const auto cores = static_cast<std::int32_t>(std::max(1U, std::thread::hardware_concurrency()));
  CHECK(ThreadPool(0).num_workers() == cores);
  CHECK(ThreadPool(-4).num_workers() == cores);
}

TEST_CASE("transfers on one backend may run together") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 3});
  test_support::ReanchorCase c;
  c.geometry = {.num_layers = 4, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kFloat32};
  c.num_positions = 512;
  c.run_tokens = {256};
  c.layer_end = 4;
  c.target_layout = test_support::LayoutKind::kTransposedValues;  // uses scratch, one area for each worker
  test_support::Scenario first(c, 1);
  test_support::Scenario second(c, 1);
  std::thread other([&] { CHECK(backend->reanchor_async(first.transfer(), pikv::StreamRef::legacy_default()).ok()); });
  CHECK(backend->reanchor_async(second.transfer(), pikv::StreamRef::legacy_default()).ok());
  other.join();
  CHECK(std::memcmp(first.target_buffer().data(), second.target_buffer().data(),
                    static_cast<std::size_t>(first.target_buffer().size_bytes())) == 0);
}

}  // namespace
