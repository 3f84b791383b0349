#include "pikv/plan.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace pikv {
inline namespace v0 {
namespace {

Status piece_error(std::size_t index, const char* field, const std::string& what) {
  return invalid_argument("plan: piece " + std::to_string(index) + ": " + field + ": " + what);
}

bool is_exact(Provenance provenance) {
  return provenance == Provenance::kExactPrefix || provenance == Provenance::kExactSegment;
}

/// Requires: the piece's rows are inside the prompt.
Status check_cached_piece(std::size_t index, const PlanPiece& piece, std::int64_t num_rows, std::int32_t max_positions,
                          bool behind_exact_rows) {
  if (piece.chunk_num_tokens < piece.num_rows()) {
    return piece_error(
        index, "chunk_num_tokens",
        std::to_string(piece.num_rows()) + " rows from a chunk of " + std::to_string(piece.chunk_num_tokens));
  }
  if (piece.chunk_first_token < 0 || piece.chunk_first_token > piece.chunk_num_tokens - piece.num_rows()) {
    return piece_error(index, "chunk_first_token",
                       std::to_string(piece.num_rows()) + " rows from token " +
                           std::to_string(piece.chunk_first_token) + " are not inside a chunk of " +
                           std::to_string(piece.chunk_num_tokens));
  }
  const std::int64_t chunk_row = piece.row_begin - piece.chunk_first_token;
  if (chunk_row < 0 || chunk_row > num_rows - piece.chunk_num_tokens) {
    return piece_error(index, "chunk_num_tokens", "the whole chunk would not fit the prompt around its piece");
  }
  if (piece.first_position < 0 || piece.first_position > max_positions - piece.num_rows()) {
    return piece_error(index, "first_position",
                       std::to_string(piece.num_rows()) + " positions from " + std::to_string(piece.first_position) +
                           " are not inside a table of " + std::to_string(max_positions));
  }
  const bool prefix = piece.source == PlanPiece::Source::kExactPrefix;
  const Provenance exact = prefix ? Provenance::kExactPrefix : Provenance::kExactSegment;
  if (piece.provenance != exact && piece.provenance != Provenance::kApproximate) {
    return piece_error(index, "provenance",
                       std::string(provenance_name(piece.provenance)) + " does not fit its source");
  }
  if (is_exact(piece.provenance) && !behind_exact_rows) {
    return piece_error(index, "provenance", "exact rows behind approximate ones");
  }
  if ((prefix || is_exact(piece.provenance)) && piece.first_position != piece.row_begin) {
    return piece_error(
        index, "first_position",
        prefix ? "an exact prefix that is not anchored in place" : "exact rows that are not anchored in place");
  }
  return Status();
}

Status check_piece(std::size_t index, const PlanPiece& piece, std::int64_t expected_begin, std::int64_t num_rows,
                   std::int32_t max_positions, bool behind_exact_rows) {
  if (piece.row_begin != expected_begin) {
    return piece_error(index, "row_begin",
                       std::to_string(piece.row_begin) + " where " + std::to_string(expected_begin) + " comes next");
  }
  if (piece.row_end <= piece.row_begin || piece.row_end > num_rows) {
    return piece_error(index, "row_end",
                       std::to_string(piece.row_end) + " is not in (" + std::to_string(piece.row_begin) + ", " +
                           std::to_string(num_rows) + "]");
  }
  switch (piece.source) {
    case PlanPiece::Source::kCompute:
      if (piece.provenance != Provenance::kFresh) {
        return piece_error(index, "provenance", "a computed piece is always fresh");
      }
      return Status();
    case PlanPiece::Source::kExactPrefix:
    case PlanPiece::Source::kChunk:
      return check_cached_piece(index, piece, num_rows, max_positions, behind_exact_rows);
  }
  return piece_error(index, "source", "not a source");
}

Status check_repaired_rows(std::span<const PlanPiece> pieces, std::span<const std::int32_t> rows) {
  std::size_t piece_index = 0;
  std::int64_t previous = -1;
  for (const std::int32_t row : rows) {
    if (row <= previous) {
      return invalid_argument("plan: repaired_rows: " + std::to_string(row) + " does not ascend");
    }
    previous = row;
    while (piece_index < pieces.size() && pieces[piece_index].row_end <= row) ++piece_index;
    if (piece_index == pieces.size() || pieces[piece_index].provenance != Provenance::kApproximate) {
      return invalid_argument("plan: repaired_rows: row " + std::to_string(row) + " is not an approximate row");
    }
  }
  return Status();
}

}  // namespace

const char* provenance_name(Provenance provenance) noexcept {
  switch (provenance) {
    case Provenance::kExactPrefix:
      return "exact prefix";
    case Provenance::kExactSegment:
      return "exact segment";
    case Provenance::kApproximate:
      return "approximate";
    case Provenance::kRepaired:
      return "repaired";
    case Provenance::kFresh:
      return "fresh";
  }
  return "unknown";
}

void Prompt::add_fresh(std::span<const TokenId> tokens) {
  if (tokens.empty()) return;
  const std::int64_t begin = num_rows();
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  segments_.push_back(Segment{.row_begin = begin, .row_end = num_rows(), .recipe = std::nullopt});
}

void Prompt::add_chunk(std::span<const TokenId> tokens, const ChunkRecipe& recipe, Anchor anchor) {
  if (tokens.empty()) return;
  const std::int64_t begin = num_rows();
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  segments_.push_back(Segment{.row_begin = begin, .row_end = num_rows(), .recipe = recipe, .anchor = anchor});
}

Result<CompositionPlan> CompositionPlan::create(const KvGeometry& geometry, std::int32_t max_positions,
                                                std::vector<TokenId> tokens, std::vector<PlanPiece> pieces,
                                                std::vector<std::int32_t> repaired_rows) {
  PIKV_TRY(validate(geometry));
  const auto num_rows = static_cast<std::int64_t>(tokens.size());
  if (num_rows < 1) return invalid_argument("plan: tokens: a prompt has at least one");
  if (num_rows > max_positions) {
    return invalid_argument("plan: tokens: " + std::to_string(num_rows) + " rows, but the table ends at position " +
                            std::to_string(max_positions));
  }

  if (num_rows > std::numeric_limits<std::int64_t>::max() / geometry.bytes_per_token()) {
    return invalid_argument("plan: tokens: the K and V of " + std::to_string(num_rows) + " rows of " +
                            std::to_string(geometry.bytes_per_token()) + " bytes exceed 2^63 bytes");
  }

  CompositionPlan plan;
  std::int64_t next_row = 0;
  bool exact_so_far = true;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const PlanPiece& piece = pieces[i];
    PIKV_TRY(check_piece(i, piece, next_row, num_rows, max_positions, exact_so_far));
    next_row = piece.row_end;
    if (exact_so_far && piece.provenance == Provenance::kApproximate) {
      exact_so_far = false;
      plan.exact_rows_ = piece.row_begin;
    }
  }
  if (next_row != num_rows) {
    return invalid_argument("plan: pieces: they end at row " + std::to_string(next_row) + " of " +
                            std::to_string(num_rows));
  }
  if (pieces.back().cached()) return piece_error(pieces.size() - 1, "source", "the last row has to be computed");
  if (exact_so_far) plan.exact_rows_ = num_rows;
  PIKV_TRY(check_repaired_rows(pieces, repaired_rows));

  auto repaired = repaired_rows.begin();
  for (const PlanPiece& piece : pieces) {
    const std::int64_t rows = piece.num_rows();
    if (!piece.cached()) {
      plan.stats_.fresh_tokens += rows;
      for (std::int64_t row = piece.row_begin; row < piece.row_end; ++row) {
        plan.rows_to_compute_.push_back(static_cast<std::int32_t>(row));
      }
      continue;
    }
    plan.stats_.bytes_to_move += rows * geometry.bytes_per_token();
    const auto repaired_end = std::lower_bound(repaired, repaired_rows.end(), piece.row_end);
    const std::int64_t num_repaired = repaired_end - repaired;
    plan.rows_to_compute_.insert(plan.rows_to_compute_.end(), repaired, repaired_end);
    repaired = repaired_end;
    plan.stats_.repaired_tokens += num_repaired;
    switch (piece.provenance) {
      case Provenance::kExactPrefix:
        plan.stats_.exact_prefix_tokens += rows;
        break;
      case Provenance::kExactSegment:
        plan.stats_.exact_segment_tokens += rows;
        break;
      default:
        plan.stats_.approximate_tokens += rows - num_repaired;
        break;
    }
  }

  plan.geometry_ = geometry;
  plan.max_positions_ = max_positions;
  plan.tokens_ = std::move(tokens);
  plan.pieces_ = std::move(pieces);
  plan.repaired_rows_ = std::move(repaired_rows);
  return plan;
}

Provenance CompositionPlan::provenance(std::int64_t row) const noexcept {
  const auto piece = std::partition_point(pieces_.begin(), pieces_.end(),
                                          [row](const PlanPiece& candidate) { return candidate.row_end <= row; });
  const bool repaired =
      std::binary_search(repaired_rows_.begin(), repaired_rows_.end(), static_cast<std::int32_t>(row));
  return repaired ? Provenance::kRepaired : piece->provenance;
}

Result<CompositionPlan> CompositionPlan::without(std::span<const std::size_t> piece_indices,
                                                 std::span<const MissReason> reasons) const {
  if (piece_indices.size() != reasons.size()) {
    return invalid_argument("plan: without: " + std::to_string(piece_indices.size()) + " pieces but " +
                            std::to_string(reasons.size()) + " reasons");
  }
  std::vector<PlanPiece> pieces = pieces_;
  for (std::size_t i = 0; i < piece_indices.size(); ++i) {
    const std::size_t index = piece_indices[i];
    if (index >= pieces.size()) return piece_error(index, "index", "there is no such piece");
    if (!pieces[index].cached()) return piece_error(index, "source", "is computed already");
    pieces[index] =
        PlanPiece{.row_begin = pieces[index].row_begin, .row_end = pieces[index].row_end, .miss = reasons[i]};
  }
  std::vector<std::int32_t> repaired;
  for (const std::int32_t row : repaired_rows_) {
    const auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                            [row](const PlanPiece& candidate) { return candidate.row_end <= row; });
    if (piece->cached()) repaired.push_back(row);
  }
  return create(geometry_, max_positions_, tokens_, std::move(pieces), std::move(repaired));
}

Result<CompositionPlan> CompositionPlan::with_approximate(std::span<const std::size_t> piece_indices) const {
  std::vector<PlanPiece> pieces = pieces_;
  std::size_t first = pieces.size();
  for (const std::size_t index : piece_indices) {
    if (index >= pieces.size()) return piece_error(index, "index", "there is no such piece");
    if (!pieces[index].cached()) return piece_error(index, "source", "is computed");
    first = std::min(first, index);
  }
  for (std::size_t i = first; i < pieces.size(); ++i) {
    if (pieces[i].cached()) pieces[i].provenance = Provenance::kApproximate;
  }
  return create(geometry_, max_positions_, tokens_, std::move(pieces), repaired_rows_);
}

Result<CompositionPlan> CompositionPlan::with_repaired_rows(std::vector<std::int32_t> rows) const {
  return create(geometry_, max_positions_, tokens_, pieces_, std::move(rows));
}

}  // namespace v0
}  // namespace pikv
