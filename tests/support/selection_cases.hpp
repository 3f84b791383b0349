// Selections with every kind of score and segment, what they have to give by a slow oracle that sorts nothing, and
// selectors on host arrays, whatever memory they work in. Shared by the tests of the CPU and of CUDA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/selection.hpp"

namespace test_support {

struct SelectionCase {
  std::string name;
  std::vector<float> scores;
  std::vector<std::int32_t> segment_offsets;
  std::int32_t k = 0;       // of all rows, at most as many as there are
  std::int32_t k_each = 0;  // of each segment
  float threshold = 0;
};

/// The largest of all cases, for which selectors have to be made.
inline constexpr std::int32_t kMaxCaseRows = 70'000;
inline constexpr std::int32_t kMaxCaseSegments = 3'000;

/// Deterministic.
[[nodiscard]] const std::vector<SelectionCase>& selection_cases();

struct SelectionOutcome {
  std::vector<std::int32_t> top_rows;
  std::vector<std::int32_t> segment_rows;  // as many as the capacity asked for, kUnwritten behind what is selected
  std::vector<std::int32_t> segment_row_offsets;
  std::vector<std::int32_t> rows_above;  // one entry for each row
  std::int32_t num_above = 0;
  std::vector<std::int32_t> chunk_order;
  std::vector<pikv::Slot> slots_above;  // of rows_above, kSkipSlot from num_above on
  friend bool operator==(const SelectionOutcome&, const SelectionOutcome&) = default;
};
inline constexpr std::int32_t kUnwritten = -77;

/// By counting for each row the rows that beat it, which is quadratic: use it where scores are few.
[[nodiscard]] SelectionOutcome oracle_outcome(const SelectionCase& c);

/// All operations of `selector` on arrays in memory of `backend`, which are copied there and back. Sets *status to the
/// first failure and returns what there is.
[[nodiscard]] SelectionOutcome run_selections(pikv::RowSelector& selector, pikv::Backend& backend,
                                              const SelectionCase& c, pikv::Status* status);

/// The slot of a row in run_selections() and oracle_outcome(): beyond 32 bits, and none for some rows.
[[nodiscard]] pikv::Slot slot_of_row(std::int32_t row);

}  // namespace test_support
