#include "rag_bench/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace rag_bench {
namespace {

constexpr std::size_t kWindows = 10;

std::string percent(double share) { return fmt::format("{:.1f}", 100 * share); }

}  // namespace

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

Summary summarize(const std::string& mode, const LoadResult& result) {
  Summary summary;
  summary.mode = mode;
  summary.num_requests = static_cast<std::int64_t>(result.samples.size());
  summary.num_refused = result.num_refused;
  summary.seconds = result.seconds;
  std::vector<double> first_tokens;
  double num_generated = 0;
  for (const Sample& sample : result.samples) {
    first_tokens.push_back(sample.first_token - sample.sent);
    num_generated += sample.num_generated_tokens;
    summary.prompt_tokens += sample.num_prompt_tokens;
  }
  summary.first_token_p50 = percentile(first_tokens, 0.5);
  summary.first_token_p95 = percentile(first_tokens, 0.95);
  summary.first_token_p99 = percentile(first_tokens, 0.99);
  summary.gap_p50 = percentile(result.token_gaps, 0.5);
  summary.gap_p99 = percentile(result.token_gaps, 0.99);
  summary.requests_per_second = static_cast<double>(result.samples.size()) / result.seconds;
  summary.tokens_per_second = num_generated / result.seconds;
  const std::size_t count = result.samples.size();
  for (std::size_t window = 0; window < kWindows; ++window) {
    double cached = 0;
    double all = 0;
    for (std::size_t i = count * window / kWindows; i < count * (window + 1) / kWindows; ++i) {
      cached += result.samples[i].num_cached_tokens;
      all += result.samples[i].num_prompt_tokens;
    }
    if (all > 0) summary.hit_rates.push_back(cached / all);
  }
  return summary;
}

std::string to_table(const std::vector<Summary>& summaries) {
  std::string out = fmt::format("{:<16} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8} {:>10} {:>9} {:>9}\n", "mode",
                                "requests", "req/s", "tok/s", "TTFT p50", "TTFT p95", "TTFT p99", "gap p50", "gap p99",
                                "moved GiB", "store GiB", "GPU GiB");
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  for (const Summary& s : summaries) {
    out += fmt::format(
        "{:<16} {:>8} {:>8.2f} {:>8.0f} {:>9.1f} {:>9.1f} {:>9.1f} {:>8.1f} {:>8.1f} {:>10.1f} {:>9.1f} {:>9.1f}\n",
        s.mode, s.num_requests, s.requests_per_second, s.tokens_per_second, 1e3 * s.first_token_p50,
        1e3 * s.first_token_p95, 1e3 * s.first_token_p99, 1e3 * s.gap_p50, 1e3 * s.gap_p99,
        static_cast<double>(s.moved_bytes) / kGiB, static_cast<double>(s.store_bytes) / kGiB,
        static_cast<double>(s.device_bytes_in_use) / kGiB);
  }
  out += "Times in milliseconds. Cached share of prompt tokens in percent, by tenths of the requests:\n";
  for (const Summary& s : summaries) {
    out += fmt::format("{:<16}", s.mode);
    for (const double rate : s.hit_rates) out += fmt::format(" {:>6}", percent(rate));
    const double all = std::max<double>(1, static_cast<double>(s.prompt_tokens));
    out += fmt::format("   exact {}, approximate {}, repaired {}\n", percent(static_cast<double>(s.exact_tokens) / all),
                       percent(static_cast<double>(s.approximate_tokens) / all),
                       percent(static_cast<double>(s.repaired_tokens) / all));
    if (s.num_refused > 0) out += fmt::format("{:<16} {} requests refused: the queue was full\n", "", s.num_refused);
  }
  return out;
}

std::string to_json(const std::vector<Summary>& summaries, const Workload& workload) {
  nlohmann::json out;
  out["workload"] = nlohmann::json::parse(workload.description());
  for (const Summary& s : summaries) {
    out["modes"].push_back({{"mode", s.mode},
                            {"requests", s.num_requests},
                            {"refused", s.num_refused},
                            {"seconds", s.seconds},
                            {"first_token_seconds", {s.first_token_p50, s.first_token_p95, s.first_token_p99}},
                            {"gap_seconds", {s.gap_p50, s.gap_p99}},
                            {"requests_per_second", s.requests_per_second},
                            {"tokens_per_second", s.tokens_per_second},
                            {"hit_rates", s.hit_rates},
                            {"prompt_tokens", s.prompt_tokens},
                            {"exact_tokens", s.exact_tokens},
                            {"approximate_tokens", s.approximate_tokens},
                            {"repaired_tokens", s.repaired_tokens},
                            {"moved_bytes", s.moved_bytes},
                            {"store_bytes", s.store_bytes},
                            {"device_bytes_in_use", s.device_bytes_in_use}});
  }
  return out.dump(2) + "\n";
}

}  // namespace rag_bench
