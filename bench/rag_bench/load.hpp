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
  /// Open loop if one of these is above 0; concurrency is then not used.
  double requests_per_second = 0;  ///< Poisson arrivals
  double trace_speed = 0;          ///< the workload's own arrivals, so many times as fast
  std::uint64_t seed = 1;          ///< of Poisson arrivals
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

/// Returns when all are answered. Throws Error with the message of the first request that failed, and when trace_speed
/// is above 0 and the workload knows of no arrivals.
[[nodiscard]] LoadResult run_load(mini_engine::serve::Scheduler& scheduler, const Workload& workload,
                                  const LoadOptions& options);

}  // namespace rag_bench
