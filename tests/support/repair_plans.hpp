// Plans with something to repair, and runs of policies told what a test makes up.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pikv/repair_policies.hpp"
#include "support/plan_pieces.hpp"

namespace test_support {

using Rows = std::vector<std::int32_t>;

inline constexpr std::int32_t kNumLayers = 6;
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

[[nodiscard]] inline pikv::CompositionPlan plan_of(std::vector<pikv::PlanPiece> pieces, Rows repaired = {}) {
  const auto num_rows = static_cast<std::size_t>(pieces.back().row_end);
  return pikv::CompositionPlan::create(kGeometry, 64, std::vector<pikv::TokenId>(num_rows, 7), std::move(pieces),
                                       std::move(repaired))
      .value();
}

/// Approximate rows: 4 to 9 of a chunk whose first two tokens an exact prefix brought, 12 to 19 of a whole one, and 20
/// of a chunk of one token. Fifteen in all.
[[nodiscard]] inline std::vector<pikv::PlanPiece> mixed_pieces() {
  return {prefix(0, 2),        exact_chunk(2, 4, 0, 2), chunk(4, 10, 2, 8), computed(10, 12),
          chunk(12, 20, 0, 8), chunk(20, 21, 0, 1),     computed(21, 24)};
}
inline const Rows kMixedRows{4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20};

[[nodiscard]] inline std::unique_ptr<pikv::RepairRun> begin(std::string_view spec, const pikv::CompositionPlan& plan,
                                                            std::int32_t num_layers = kNumLayers) {
  return pikv::make_repair_policy(spec).value()->begin({.plan = plan, .num_layers = num_layers}).value();
}

/// Scores of all rows of a prompt: `others` but for the rows given.
[[nodiscard]] inline std::vector<float> scores_of(std::int64_t num_rows, float others,
                                                  std::initializer_list<std::pair<std::int32_t, float>> given) {
  std::vector<float> scores(static_cast<std::size_t>(num_rows), others);
  for (const auto& [row, score] : given) scores[static_cast<std::size_t>(row)] = score;
  return scores;
}

/// Tells every probe of the pass, and then whom attention matters to, the same scores; the rows computed beyond the
/// last probe.
inline Rows tell(pikv::RepairRun& run, const pikv::RepairPass& pass, const std::vector<float>& scores) {
  Rows rows = pass.rows;
  for (const pikv::RepairProbe& probe : pass.probes) {
    if (std::optional<Rows> rest = run.on_scores(probe, scores)) rows = std::move(*rest);
  }
  if (pass.attention.num_layers() > 0) run.on_attention(scores);
  return rows;
}

/// The rows of the only pass of a policy that measures nothing.
[[nodiscard]] inline Rows only_pass(std::string_view spec, const pikv::CompositionPlan& plan) {
  const std::unique_ptr<pikv::RepairRun> run = begin(spec, plan);
  const std::optional<pikv::RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK_FALSE(pass->measures());
  CHECK_FALSE(run->next().has_value());
  CHECK_FALSE(run->next().has_value());
  return pass->rows;
}

}  // namespace test_support
