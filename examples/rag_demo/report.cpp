#include "rag_demo/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace rag_demo {
namespace {

using Json = nlohmann::ordered_json;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Json optional_number(const std::optional<double>& value) { return value.has_value() ? Json(*value) : Json(nullptr); }

Json to_json(const ModeRun& run) {
  return {{"name", mode_name(run.mode)},
          {"ttft_ms", run.ttft_ms},
          {"tokens_reused", run.rows.reused_tokens()},
          {"tokens_exact", run.rows.exact_prefix_tokens + run.rows.exact_segment_tokens},
          {"tokens_approximate", run.rows.approximate_tokens},
          {"tokens_computed", run.rows.computed_tokens()},
          {"bytes_moved", run.rows.bytes_to_move},
          {"kl", run.kl},
          {"top1", run.top1},
          {"f1", optional_number(run.f1)},
          {"answer", run.answer}};
}

Json to_json(const ModeSummary& mode) {
  return {{"name", mode_name(mode.mode)},
          {"ttft_ms", mode.ttft_ms},
          {"speed_up", mode.speed_up},
          {"tokens_reused", mode.tokens_reused},
          {"tokens_computed", mode.tokens_computed},
          {"kl", mode.kl},
          {"top1", mode.top1},
          {"f1", optional_number(mode.f1)}};
}

}  // namespace

std::vector<ModeSummary> summarise(const Report& report) {
  const auto count = static_cast<double>(report.served.size());
  std::vector<ModeSummary> summaries;
  for (std::size_t i = 0; i < kModes.size(); ++i) {
    ModeSummary summary;
    summary.mode = kModes[i];
    std::vector<double> times, scores;
    for (const ServedRequest& served : report.served) {
      const ModeRun& run = served.runs[i];
      times.push_back(run.ttft_ms);
      summary.tokens_reused += static_cast<double>(run.rows.reused_tokens()) / count;
      summary.tokens_computed += static_cast<double>(run.rows.computed_tokens()) / count;
      summary.kl += run.kl / count;
      summary.top1 += run.top1 / count;
      if (run.f1.has_value()) scores.push_back(*run.f1);
    }
    summary.ttft_ms = median(times);
    summary.speed_up = (summaries.empty() ? summary : summaries.front()).ttft_ms / summary.ttft_ms;
    if (!scores.empty()) {
      double sum = 0;
      for (const double score : scores) sum += score;
      summary.f1 = sum / static_cast<double>(scores.size());
    }
    summaries.push_back(summary);
  }
  return summaries;
}

std::string to_table(const Report& report) {
  std::string out;
  const auto line = std::back_inserter(out);
  fmt::format_to(line, "{:<13}{:>9}{:>10}{:>11}{:>10}{:>11}{:>8}{:>7}\n", "mode", "reused", "computed", "TTFT ms",
                 "speed-up", "KL nats", "top-1", "F1");
  for (const ModeSummary& mode : summarise(report)) {
    fmt::format_to(line, "{:<13}{:>9.0f}{:>10.0f}{:>11.1f}{:>9.1f}x{:>11.2g}{:>7.0f}%{:>7}\n", mode_name(mode.mode),
                   mode.tokens_reused, mode.tokens_computed, mode.ttft_ms, mode.speed_up, mode.kl, 100 * mode.top1,
                   mode.f1.has_value() ? fmt::format("{:.2f}", *mode.f1) : "-");
  }
  const HitRates& rates = report.hit_rates;
  fmt::format_to(line,
                 "\nHit rate over {} questions in shuffled order, {} prompt tokens, caches empty at first:\n"
                 "  exact prefix cache {:>5.1f} %\n  pikv               {:>5.1f} %\n",
                 rates.num_requests, rates.num_tokens, 100 * rates.prefix, 100 * rates.chunk);
  const SpeedReport& speed = report.speed;
  fmt::format_to(line,
                 "\nSpeed of the parts on {} threads, as ratios of this run:\n"
                 "  re-anchor / memcpy of the same bytes    {:.2f}   ({:.1f} of {:.1f} GB/s)\n"
                 "  prefill / OpenBLAS sgemm                {:.2f}   ({:.0f} of {:.0f} GFLOP/s)\n"
                 "  chunk key                               {:.1f} ns a token\n",
                 report.num_threads, speed.reanchor_of_memcpy(), speed.reanchor_gigabytes_per_s,
                 speed.memcpy_gigabytes_per_s, speed.prefill_of_sgemm(), speed.prefill_gflops, speed.sgemm_gflops,
                 speed.hash_ns_per_token);
  return out;
}

void write_json(const Report& report, const std::string& path) {
  Json modes = Json::array();
  for (const ModeSummary& mode : summarise(report)) modes.push_back(to_json(mode));
  Json questions = Json::array();
  for (const ServedRequest& served : report.served) {
    Json runs = Json::array();
    for (const ModeRun& run : served.runs) runs.push_back(to_json(run));
    questions.push_back({{"question", served.request.question},
                         {"answers", served.request.answers},
                         {"documents", served.request.documents},
                         {"modes", runs}});
  }
  const Json json = {{"model", report.model_name},
                     {"threads", report.num_threads},
                     {"documents", report.num_documents},
                     {"ingest",
                      {{"documents", report.ingest.num_documents},
                       {"tokens", report.ingest.num_tokens},
                       {"bytes", report.ingest.num_bytes},
                       {"seconds", report.ingest.seconds}}},
                     {"modes", modes},
                     {"hit_rate",
                      {{"prefix", report.hit_rates.prefix},
                       {"chunk", report.hit_rates.chunk},
                       {"requests", report.hit_rates.num_requests},
                       {"tokens", report.hit_rates.num_tokens}}},
                     {"speed",
                      {{"reanchor_of_memcpy", report.speed.reanchor_of_memcpy()},
                       {"reanchor_gigabytes_per_s", report.speed.reanchor_gigabytes_per_s},
                       {"memcpy_gigabytes_per_s", report.speed.memcpy_gigabytes_per_s},
                       {"prefill_of_sgemm", report.speed.prefill_of_sgemm()},
                       {"prefill_gflops", report.speed.prefill_gflops},
                       {"sgemm_gflops", report.speed.sgemm_gflops},
                       {"hash_ns_per_token", report.speed.hash_ns_per_token}}},
                     {"questions", questions}};
  std::ofstream file(path);
  // Answers may hold any bytes a model comes up with; what is no UTF-8 is replaced.
  file << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace rag_demo
