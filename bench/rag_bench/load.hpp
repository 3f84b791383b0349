// Sends a workload to a scheduler and notes when what happened.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mini_engine/serve/scheduler.hpp"
#include "rag_bench/workload.hpp"

namespace rag_bench {

struct LoadOptions {
  int num_requests = 2000;
  std::uint64_t first_request = 0;  ///< of the workload
  int concurrency = 32;             ///< closed loop: so many requests are always under way
  double requests_per_second = 0;   ///< above 0: open loop, Poisson arrivals; concurrency is then not used
};

/// One answered request. Times in seconds from the beginning of the load.
struct Sample {
  double sent = 0;
  double first_token = 0;
  double finished = 0;
  int num_prompt_tokens = 0;
  int num_cached_tokens = 0;
  int num_generated_tokens = 0;
};

struct LoadResult {
  std::vector<Sample> samples;     ///< in order of their end
  std::vector<double> token_gaps;  ///< seconds between tokens of one answer
  std::int64_t num_refused = 0;    ///< open loop: the queue was full
  double seconds = 0;
};

/// Returns when all are answered. Throws Error with the message of the first request that failed.
[[nodiscard]] LoadResult run_load(mini_engine::serve::Scheduler& scheduler, const Workload& workload,
                                  const LoadOptions& options);

}  // namespace rag_bench
