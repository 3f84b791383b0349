// What a load showed, in numbers and in words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rag_bench/load.hpp"

namespace rag_bench {

/// Of one mode. Times in seconds.
struct Summary {
  std::string mode;
  std::int64_t num_requests = 0;
  std::int64_t num_refused = 0;
  double seconds = 0;
  double first_token_p50 = 0, first_token_p95 = 0, first_token_p99 = 0;
  double gap_p50 = 0, gap_p99 = 0;  ///< between tokens of one answer
  double requests_per_second = 0;
  double tokens_per_second = 0;   ///< generated
  std::vector<double> hit_rates;  ///< cached share of prompt tokens, by tenths of the requests in order of their end
  std::int64_t exact_tokens = 0, approximate_tokens = 0, repaired_tokens = 0, prompt_tokens = 0;
  std::int64_t moved_bytes = 0;  ///< out of the store into pages
  std::int64_t store_bytes = 0;  ///< at the end
  std::int64_t device_bytes_in_use = 0;
};

/// The smallest value that at least `share` of all are not above; 0 of none. share: in (0, 1].
[[nodiscard]] double percentile(std::vector<double> values, double share);

/// Times, rates and hits; the rest is left as it is.
[[nodiscard]] Summary summarize(const std::string& mode, const LoadResult& result);

[[nodiscard]] std::string to_table(const std::vector<Summary>& summaries);
[[nodiscard]] std::string to_json(const std::vector<Summary>& summaries, const Workload& workload);

}  // namespace rag_bench
