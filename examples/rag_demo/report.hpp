// What the demo found, as a table for people and as JSON for programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "rag_demo/hit_rate.hpp"
#include "rag_demo/session.hpp"
#include "rag_demo/speed.hpp"

namespace rag_demo {

struct ServedRequest {
  Request request;
  std::vector<ModeRun> runs;  ///< in the order of kModes
};

struct Report {
  std::string model_name;
  int num_threads = 0;
  std::size_t num_documents = 0;
  IngestReport ingest;
  std::vector<ServedRequest> served;
  HitRates hit_rates;
  SpeedReport speed;
};

/// One mode over all served requests: medians of times, means of everything else.
struct ModeSummary {
  Mode mode = Mode::kFull;
  double ttft_ms = 0;
  double speed_up = 0;  ///< full's time over this one's
  double tokens_reused = 0, tokens_computed = 0;
  double kl = 0, top1 = 0;
  std::optional<double> f1;
};

/// In the order of kModes. Requires: at least one served request.
[[nodiscard]] std::vector<ModeSummary> summarise(const Report& report);

[[nodiscard]] std::string to_table(const Report& report);

/// Writes the report as JSON; throws std::runtime_error naming the file when it cannot.
void write_json(const Report& report, const std::string& path);

}  // namespace rag_demo
