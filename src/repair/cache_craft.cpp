#include "pikv/cache_craft.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "repair/policy.hpp"
#include "repair/policy_spec.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// Keys of the cached chunks before `piece`. Chunks that are computed have none in a plan.
std::vector<ChunkKey> preceding_keys(const CompositionPlan& plan, const PlanPiece& piece) {
  std::vector<ChunkKey> keys;
  for (const PlanPiece& other : plan.pieces()) {
    if (other.row_begin == piece.row_begin) break;
    if (other.cached()) keys.push_back(other.key);
  }
  return keys;
}

Status check_stats(const ChunkContextStats& stats, const PlanPiece& piece) {
  PIKV_TRY(validate(stats));
  if (stats.num_tokens == piece.chunk_num_tokens) return {};
  return invalid_argument("chunk context stats: num_tokens: " + std::to_string(stats.num_tokens) + " of a chunk of " +
                          std::to_string(piece.chunk_num_tokens));
}

/// Rows of the piece that paid most attention to the chunks before them. row_scores: [rows of the prompt], scratch.
std::vector<std::int32_t> most_dependent_rows(const detail::ApproximatePiece& approximate,
                                              const ChunkContextStats& stats, double share,
                                              std::vector<float>& row_scores) {
  for (const std::int32_t row : approximate.rows) {
    row_scores[static_cast<std::size_t>(row)] =
        stats.token_inter_attention[static_cast<std::size_t>(approximate.chunk_token(row))];
  }
  // Rounding up must not turn the rounding error of the share into a row: as many rows as part_of() leaves over.
  const std::size_t num_left = detail::part_of(1 - share, approximate.rows.size());
  return detail::top_rows(row_scores, approximate.rows, approximate.rows.size() - num_left);
}

Result<std::unique_ptr<RepairRun>> begin_cache_craft(const ChunkStatsLookup& lookup, double alpha,
                                                     const RepairRequest& request) {
  std::vector<std::int32_t> rows;
  std::vector<float> row_scores(static_cast<std::size_t>(request.plan.num_rows()));
  for (const detail::ApproximatePiece& approximate : detail::approximate_pieces(request.plan)) {
    if (!approximate.lacks_context()) continue;
    const PlanPiece& piece = *approximate.piece;
    const std::shared_ptr<const ChunkContextStats> stats = lookup(piece.key);
    if (stats == nullptr) {
      rows.insert(rows.end(), approximate.rows.begin(), approximate.rows.end());
      continue;
    }
    if (const Status status = check_stats(*stats, piece); !status.ok()) {
      return invalid_argument("cache-craft: chunk " + piece.key.to_hex() + " in row " +
                              std::to_string(piece.row_begin) + ": " + std::string(status.message()));
    }
    const double share = recompute_share(*stats, preceding_keys(request.plan, piece), alpha);
    const std::vector<std::int32_t> chosen = most_dependent_rows(approximate, *stats, share, row_scores);
    rows.insert(rows.end(), chosen.begin(), chosen.end());
  }
  return detail::one_pass_run(std::move(rows));
}

}  // namespace

Result<std::unique_ptr<RepairPolicy>> make_cache_craft_policy(ChunkStatsLookup lookup, double alpha) {
  if (!std::isfinite(alpha) || alpha < 0) {
    return invalid_argument("cache-craft: alpha: " + std::to_string(alpha) + " is not a finite number of 0 or more");
  }
  if (!lookup) return invalid_argument("cache-craft: lookup: is empty");
  return detail::make_policy({.name = "cache-craft:" + detail::spec_text(alpha),
                              .knows_rows_ahead = true,
                              .begin = [lookup = std::move(lookup), alpha](const RepairRequest& request) {
                                return begin_cache_craft(lookup, alpha, request);
                              }});
}

}  // namespace v0
}  // namespace pikv
