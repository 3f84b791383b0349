// Which rows a repair policy may choose from, and choosing the best of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pikv/plan.hpp"

namespace pikv::detail {

/// The rows of one approximate piece that are not repaired already, ascending.
struct ApproximatePiece {
  const PlanPiece* piece = nullptr;  ///< of the plan, which it must not outlive
  std::vector<std::int32_t> rows;

  /// Which token of its chunk stands in `row`.
  [[nodiscard]] std::int64_t chunk_token(std::int32_t row) const noexcept {
    return row - piece->row_begin + piece->chunk_first_token;
  }
  /// Whether the piece is of a chunk that never saw what stands before it. A lossy exact prefix has seen it.
  [[nodiscard]] bool lacks_context() const noexcept { return piece->source == PlanPiece::Source::kChunk; }
};

/// In the order of the prompt; pieces without such rows are left out.
[[nodiscard]] std::vector<ApproximatePiece> approximate_pieces(const CompositionPlan& plan);
/// All their rows, ascending.
[[nodiscard]] std::vector<std::int32_t> approximate_rows(const CompositionPlan& plan);

/// `fraction` of `count`, rounded down. Rounding errors of the product do not count: 0.29 of 100 is 29. Requires:
/// fraction within [0, 1].
[[nodiscard]] std::size_t part_of(double fraction, std::size_t count) noexcept;
/// How many rows `fraction` of num_rows is: part_of(), but one when there are any and the fraction is not 0.
[[nodiscard]] std::size_t rows_of_fraction(double fraction, std::size_t num_rows) noexcept;

/// The best min(k, rows.size()) of `rows` in the order of selection.hpp, ascending. scores: of all rows of the prompt.
/// Requires: every row is an index into scores.
[[nodiscard]] std::vector<std::int32_t> top_rows(std::span<const float> scores, std::vector<std::int32_t> rows,
                                                 std::size_t k);

}  // namespace pikv::detail
