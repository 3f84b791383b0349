// Workers: every job is given out once, and a failure ends them all.
#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "lab/run/workers.hpp"

TEST_CASE("workers take every job once") {
  for (const int num_workers : {1, 2, 7}) {
    CAPTURE(num_workers);
    std::vector<std::atomic<int>> taken(100);
    lab::JobQueue jobs(taken.size());
    lab::run_workers(num_workers, jobs, [&](lab::JobQueue& left) {
      while (const auto job = left.next()) ++taken[*job];
    });
    for (const std::atomic<int>& times : taken) CHECK(times == 1);
    CHECK_FALSE(jobs.next().has_value());
  }
}

TEST_CASE("workers that find no job do nothing") {
  lab::JobQueue jobs(0);
  lab::run_workers(3, jobs, [](lab::JobQueue& left) { CHECK_FALSE(left.next().has_value()); });
}

TEST_CASE("a worker that fails stops the others, and its exception comes out") {
  lab::JobQueue jobs(1000000);
  std::atomic<int> done = 0;
  CHECK_THROWS_WITH_AS(lab::run_workers(4, jobs,
                                        [&](lab::JobQueue& left) {
                                          while (const auto job = left.next()) {
                                            if (*job == 10) throw std::runtime_error("job 10 fails");
                                            ++done;
                                          }
                                        }),
                       "job 10 fails", std::runtime_error);
  CHECK(done < 1000000);
  CHECK_FALSE(jobs.next().has_value());
}
