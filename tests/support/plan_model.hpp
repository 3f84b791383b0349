// A second opinion on CompositionPlan: every documented rule, row by row, in arithmetic too wide to overflow. Slow and
// plain on purpose; the plan's tests and its fuzzer compare the library with it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pikv/plan.hpp"

namespace test_support {

/// The arguments of CompositionPlan::create().
struct PlanDraft {
  pikv::KvGeometry geometry;
  std::int32_t max_positions = 0;
  std::vector<pikv::TokenId> tokens;
  std::vector<pikv::PlanPiece> pieces;
  std::vector<std::int32_t> repaired_rows;

  [[nodiscard]] pikv::Result<pikv::CompositionPlan> create() const {
    return pikv::CompositionPlan::create(geometry, max_positions, tokens, pieces, repaired_rows);
  }
};

/// Empty when create() has to accept the draft; otherwise a rule that it breaks.
[[nodiscard]] std::string broken_rule(const PlanDraft& draft);

/// Empty when `plan` says of every row what `draft` says; otherwise the first thing that differs.
/// Requires: broken_rule(draft) is empty.
[[nodiscard]] std::string difference(const pikv::CompositionPlan& plan, const PlanDraft& draft);

/// What without(piece_indices, reasons) has to give. Requires: both of one length, every index in range.
[[nodiscard]] PlanDraft draft_without(const PlanDraft& draft, const std::vector<std::size_t>& piece_indices,
                                      const std::vector<pikv::MissReason>& reasons);

}  // namespace test_support
