#include "support/plan_model.hpp"

#include <algorithm>
#include <limits>

namespace test_support {
namespace {

using pikv::PlanPiece;
using pikv::Provenance;

__extension__ typedef __int128 Wide;

constexpr std::size_t kNobody = std::numeric_limits<std::size_t>::max();

bool is_approximate(const PlanPiece& piece) { return piece.cached() && piece.provenance == Provenance::kApproximate; }

std::string broken_rule_of_row(const PlanDraft& draft, const PlanPiece& piece, Wide row, bool approximate_before) {
  const Wide num_rows = static_cast<Wide>(draft.tokens.size());
  switch (piece.source) {
    case PlanPiece::Source::kCompute:
      return piece.provenance == Provenance::kFresh ? "" : "computed, but not fresh";
    case PlanPiece::Source::kExactPrefix:
      if (piece.provenance != Provenance::kExactPrefix && piece.provenance != Provenance::kApproximate) {
        return "prefix of another provenance";
      }
      break;
    case PlanPiece::Source::kChunk:
      if (piece.provenance != Provenance::kExactSegment && piece.provenance != Provenance::kApproximate) {
        return "chunk of another provenance";
      }
      break;
    default:
      return "no such source";
  }
  const Wide token = Wide{piece.chunk_first_token} + (row - piece.row_begin);
  if (piece.chunk_first_token < 0 || token >= piece.chunk_num_tokens) return "outside its chunk";
  if (row - token < 0 || row - token + piece.chunk_num_tokens > num_rows) return "its chunk leaves the prompt";
  const Wide position = Wide{piece.first_position} + (row - piece.row_begin);
  if (position < 0 || position >= draft.max_positions) return "outside the table";
  if (piece.source == PlanPiece::Source::kExactPrefix && position != row) return "prefix, but not in place";
  if (piece.provenance != Provenance::kApproximate) {
    if (approximate_before) return "exact behind approximate";
    if (position != row) return "exact, but not in place";
  }
  return "";
}

/// The piece of each row. Requires: the rows of all pieces are inside the prompt.
std::vector<std::size_t> owners(const PlanDraft& draft) {
  std::vector<std::size_t> owner(draft.tokens.size(), kNobody);
  for (std::size_t i = 0; i < draft.pieces.size(); ++i) {
    for (std::int64_t row = draft.pieces[i].row_begin; row < draft.pieces[i].row_end; ++row) {
      owner[static_cast<std::size_t>(row)] = i;
    }
  }
  return owner;
}

}  // namespace

std::string broken_rule(const PlanDraft& draft) {
  if (const pikv::Status status = pikv::validate(draft.geometry); !status.ok()) return std::string(status.message());
  const auto num_rows = static_cast<std::int64_t>(draft.tokens.size());
  if (num_rows < 1) return "no rows";
  if (num_rows > draft.max_positions) return "more rows than positions";
  if (Wide{num_rows} * draft.geometry.bytes_per_token() > std::numeric_limits<std::int64_t>::max())
    return "too many bytes";

  Wide covered = 0;
  for (const PlanPiece& piece : draft.pieces) {
    if (piece.row_begin < 0 || piece.row_end > num_rows || piece.row_begin >= piece.row_end) return "rows of a piece";
    covered += piece.row_end - piece.row_begin;
  }
  const std::vector<std::size_t> owner = owners(draft);
  if (covered != num_rows || std::count(owner.begin(), owner.end(), kNobody) != 0) return "gap or overlap";
  if (!std::is_sorted(owner.begin(), owner.end())) return "pieces out of order";

  bool approximate_before = false;
  for (std::size_t row = 0; row < owner.size(); ++row) {
    const PlanPiece& piece = draft.pieces[owner[row]];
    if (std::string rule = broken_rule_of_row(draft, piece, static_cast<Wide>(row), approximate_before);
        !rule.empty()) {
      return rule;
    }
    approximate_before = approximate_before || is_approximate(piece);
  }
  if (draft.pieces[owner.back()].cached()) return "last row not computed";

  for (std::size_t i = 0; i < draft.repaired_rows.size(); ++i) {
    const std::int32_t row = draft.repaired_rows[i];
    if (row < 0 || row >= num_rows) return "repaired row outside the prompt";
    if (i > 0 && draft.repaired_rows[i - 1] >= row) return "repaired rows do not ascend";
    if (!is_approximate(draft.pieces[owner[static_cast<std::size_t>(row)]])) return "repaired row not approximate";
  }
  return "";
}

std::string difference(const pikv::CompositionPlan& plan, const PlanDraft& draft) {
  if (!std::ranges::equal(plan.tokens(), draft.tokens)) return "tokens";
  if (plan.num_rows() != static_cast<std::int64_t>(draft.tokens.size())) return "num_rows";
  if (!std::ranges::equal(plan.repaired_rows(), draft.repaired_rows)) return "repaired_rows";
  if (plan.pieces().size() != draft.pieces.size()) return "number of pieces";
  for (std::size_t i = 0; i < draft.pieces.size(); ++i) {
    const PlanPiece& a = plan.pieces()[i];
    const PlanPiece& b = draft.pieces[i];
    if (a.source != b.source || a.provenance != b.provenance || a.row_begin != b.row_begin || a.row_end != b.row_end ||
        a.key != b.key || a.chunk_first_token != b.chunk_first_token || a.chunk_num_tokens != b.chunk_num_tokens ||
        a.first_position != b.first_position || a.miss != b.miss) {
      return "piece " + std::to_string(i);
    }
  }

  pikv::PlanStats stats;
  std::vector<std::int32_t> rows_to_compute;
  std::int64_t exact_rows = 0;
  bool approximate_before = false;
  const std::vector<std::size_t> owner = owners(draft);
  for (std::size_t i = 0; i < owner.size(); ++i) {
    const auto row = static_cast<std::int32_t>(i);
    const PlanPiece& piece = draft.pieces[owner[i]];
    const bool repaired = std::ranges::count(draft.repaired_rows, row) != 0;
    const Provenance provenance = repaired ? Provenance::kRepaired : piece.provenance;
    if (plan.provenance(row) != provenance) return "provenance of row " + std::to_string(row);
    approximate_before = approximate_before || is_approximate(piece);
    if (!approximate_before) exact_rows = row + 1;
    if (!piece.cached() || repaired) rows_to_compute.push_back(row);
    if (piece.cached()) stats.bytes_to_move += draft.geometry.bytes_per_token();
    switch (provenance) {
      case Provenance::kExactPrefix:
        ++stats.exact_prefix_tokens;
        break;
      case Provenance::kExactSegment:
        ++stats.exact_segment_tokens;
        break;
      case Provenance::kApproximate:
        ++stats.approximate_tokens;
        break;
      case Provenance::kRepaired:
        ++stats.repaired_tokens;
        break;
      case Provenance::kFresh:
        ++stats.fresh_tokens;
        break;
    }
  }
  if (plan.exact_rows() != exact_rows) return "exact_rows";
  if (!std::ranges::equal(plan.rows_to_compute(), rows_to_compute)) return "rows_to_compute";
  const pikv::PlanStats& said = plan.stats();
  if (said.exact_prefix_tokens != stats.exact_prefix_tokens) return "exact_prefix_tokens";
  if (said.exact_segment_tokens != stats.exact_segment_tokens) return "exact_segment_tokens";
  if (said.approximate_tokens != stats.approximate_tokens) return "approximate_tokens";
  if (said.repaired_tokens != stats.repaired_tokens) return "repaired_tokens";
  if (said.fresh_tokens != stats.fresh_tokens) return "fresh_tokens";
  if (said.bytes_to_move != stats.bytes_to_move) return "bytes_to_move";
  if (said.computed_tokens() != static_cast<std::int64_t>(rows_to_compute.size())) return "computed_tokens";
  if (said.reused_tokens() + said.computed_tokens() != plan.num_rows()) return "reused_tokens";
  return "";
}

PlanDraft draft_without(const PlanDraft& draft, const std::vector<std::size_t>& piece_indices,
                        const std::vector<pikv::MissReason>& reasons) {
  PlanDraft result = draft;
  for (std::size_t i = 0; i < piece_indices.size(); ++i) {
    PlanPiece& piece = result.pieces[piece_indices[i]];
    std::erase_if(result.repaired_rows,
                  [&piece](std::int32_t row) { return piece.row_begin <= row && row < piece.row_end; });
    piece = PlanPiece{.row_begin = piece.row_begin, .row_end = piece.row_end, .miss = reasons[i]};
  }
  return result;
}

}  // namespace test_support
