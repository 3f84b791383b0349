#include "repair/row_choice.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "detail/ranks_before.hpp"

namespace pikv::detail {

std::vector<ApproximatePiece> approximate_pieces(const CompositionPlan& plan) {
  std::vector<ApproximatePiece> pieces;
  const std::span<const std::int32_t> repaired = plan.repaired_rows();
  auto next_repaired = repaired.begin();
  for (const PlanPiece& piece : plan.pieces()) {
    if (piece.provenance != Provenance::kApproximate) continue;
    ApproximatePiece approximate{.piece = &piece, .rows = {}};
    for (auto row = static_cast<std::int32_t>(piece.row_begin); row < piece.row_end; ++row) {
      if (next_repaired != repaired.end() && *next_repaired == row) {
        ++next_repaired;
      } else {
        approximate.rows.push_back(row);
      }
    }
    if (!approximate.rows.empty()) pieces.push_back(std::move(approximate));
  }
  return pieces;
}

std::vector<std::int32_t> approximate_rows(const CompositionPlan& plan) {
  std::vector<std::int32_t> rows;
  for (const ApproximatePiece& piece : approximate_pieces(plan)) {
    rows.insert(rows.end(), piece.rows.begin(), piece.rows.end());
  }
  return rows;
}

std::size_t part_of(double fraction, std::size_t count) noexcept {
  // The fraction and the product are each rounded once, by half an epsilon at most.
  const double product = fraction * static_cast<double>(count) * (1 + 4 * std::numeric_limits<double>::epsilon());
  return std::min(static_cast<std::size_t>(product), count);
}

std::size_t rows_of_fraction(double fraction, std::size_t num_rows) noexcept {
  if (fraction <= 0 || num_rows == 0) return 0;
  return std::max<std::size_t>(part_of(fraction, num_rows), 1);
}

std::vector<std::int32_t> top_rows(std::span<const float> scores, std::vector<std::int32_t> rows, std::size_t k) {
  if (k < rows.size()) {
    const auto cut = rows.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(rows.begin(), cut, rows.end(), RanksBefore(scores));
    rows.erase(cut, rows.end());
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace pikv::detail
