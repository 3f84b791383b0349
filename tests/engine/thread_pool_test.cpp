#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/thread_pool.hpp"

namespace {

using mini_engine::ThreadPool;

TEST_CASE("every task runs exactly once, and what it wrote is seen afterwards") {
  for (const int num_threads : {1, 2, 5}) {
    CAPTURE(num_threads);
    ThreadPool pool(num_threads);
    CHECK(pool.num_threads() == num_threads);
    std::vector<int> counts(97);
    for (int repetition = 0; repetition < 500; ++repetition) {
      // Not atomic on purpose: the pool alone orders these writes.
      const int num_tasks = 1 + repetition % 97;
      pool.run(num_tasks, [&](int task, int) { counts[static_cast<std::size_t>(task)] += repetition; });
    }
    std::vector<int> expected(97);
    for (int repetition = 0; repetition < 500; ++repetition) {
      for (int task = 0; task <= repetition % 97; ++task) expected[static_cast<std::size_t>(task)] += repetition;
    }
    CHECK(counts == expected);
    pool.run(0, [&](int, int) { counts[0] = -1; });
    CHECK(counts[0] != -1);
  }
}

TEST_CASE("tasks under one thread index never overlap") {
  ThreadPool pool(4);
  std::vector<long> sums(4);  // by thread, unguarded
  for (int repetition = 0; repetition < 200; ++repetition) {
    pool.run(64, [&](int task, int thread) {
      REQUIRE(thread >= 0);
      REQUIRE(thread < 4);
      sums[static_cast<std::size_t>(thread)] += task;
    });
  }
  CHECK(std::accumulate(sums.begin(), sums.end(), 0L) == 200L * 63 * 64 / 2);
}

TEST_CASE("workers that fell asleep wake up again, and a pool may end without a job") {
  { const ThreadPool unused(3); }
  ThreadPool pool(2);
  for (int repetition = 0; repetition < 5; ++repetition) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    // Neither task can finish before both have begun, so both threads must take part.
    std::atomic<int> num_begun{0};
    pool.run(2, [&](int, int) {
      num_begun.fetch_add(1);
      while (num_begun.load() < 2) std::this_thread::yield();
    });
    CHECK(num_begun.load() == 2);
  }
}

TEST_CASE("the exception of the lowest task comes out, after all tasks have run") {
  ThreadPool pool(3);
  for (int repetition = 0; repetition < 50; ++repetition) {
    std::atomic<int> num_run{0};
    std::string message;
    try {
      pool.run(20, [&](int task, int) {
        num_run.fetch_add(1);
        if (task % 5 == 3) throw std::runtime_error("task " + std::to_string(task));
      });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    CHECK(message == "task 3");
    CHECK(num_run.load() == 20);
  }
  int after = 0;
  pool.run(1, [&](int, int) { after = 1; });
  CHECK(after == 1);
}

TEST_CASE("thread counts out of range are refused") {
  CHECK_THROWS_AS(ThreadPool(-1), mini_engine::Error);
  CHECK_THROWS_AS(ThreadPool(1025), mini_engine::Error);
  CHECK(ThreadPool(0).num_threads() >= 1);
}

}  // namespace
