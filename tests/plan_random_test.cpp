// CompositionPlan: random plans, right and slightly wrong, against a model that goes row by row.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "pikv/plan.hpp"
#include "support/plan_model.hpp"
#include "support/plan_pieces.hpp"

namespace {

using pikv::CompositionPlan;
using pikv::MissReason;
using pikv::PlanPiece;
using pikv::Provenance;
using pikv::Result;
using test_support::chunk;
using test_support::computed;
using test_support::kGeometry;
using test_support::PlanDraft;
using test_support::prefix;

/// Plans that mostly obey the rules, so that both verdicts come up often.
class RandomDrafts {
 public:
  explicit RandomDrafts(std::uint32_t seed) : random_(seed) {}

  std::int64_t between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }
  bool rarely() { return between(0, 99) == 0; }

  PlanDraft next() {
    PlanDraft draft{.geometry = kGeometry, .max_positions = 40, .tokens = {}, .pieces = {}, .repaired_rows = {}};
    draft.tokens.resize(static_cast<std::size_t>(between(1, 40)));
    const auto num_rows = static_cast<std::int64_t>(draft.tokens.size());
    bool exact = true;
    for (std::int64_t row = 0; row < num_rows;) {
      const std::int64_t end = std::min(num_rows, row + between(1, 8));
      draft.pieces.push_back(piece(row, end, num_rows, exact));
      exact = exact && draft.pieces.back().provenance != Provenance::kApproximate;
      row = end;
    }
    for (const PlanPiece& p : draft.pieces) {
      if (p.provenance != Provenance::kApproximate) continue;
      for (std::int64_t row = p.row_begin; row < p.row_end; ++row) {
        if (between(0, 3) == 0) draft.repaired_rows.push_back(static_cast<std::int32_t>(row));
      }
    }
    if (rarely()) draft.repaired_rows.push_back(static_cast<std::int32_t>(between(-2, 42)));
    if (rarely()) draft.max_positions = static_cast<std::int32_t>(between(-1, 40));
    if (rarely()) std::swap(draft.pieces.front(), draft.pieces.back());
    return draft;
  }

 private:
  PlanPiece piece(std::int64_t begin, std::int64_t end, std::int64_t num_rows, bool exact_so_far) {
    const std::int64_t kind = end == num_rows && !rarely() ? 0 : between(0, 3);
    if (kind == 0) return computed(begin, end, static_cast<MissReason>(between(0, 5)));
    const std::int64_t chunk_begin = between(0, begin);
    const std::int64_t chunk_end = between(end, num_rows);
    const bool exact = (exact_so_far || rarely()) && kind != 3;
    const bool lossy_prefix = kind == 1 && (!exact || between(0, 3) == 0);
    PlanPiece result = kind == 1 ? prefix(begin, end) : chunk(begin, end, begin - chunk_begin, chunk_end - chunk_begin);
    if (lossy_prefix) result.provenance = Provenance::kApproximate;
    if (exact && kind == 2) result.provenance = Provenance::kExactSegment;
    if (result.provenance == Provenance::kApproximate && !lossy_prefix) {
      result.first_position = static_cast<pikv::Position>(between(0, 40 - (end - begin)));
    }
    const auto off_by = [this] { return rarely() ? between(-2, 2) : 0; };
    result.row_begin += off_by();
    result.row_end += off_by();
    result.chunk_first_token += off_by();
    result.chunk_num_tokens += off_by();
    result.first_position += static_cast<pikv::Position>(off_by());
    if (rarely()) result.provenance = static_cast<Provenance>(between(0, 5));
    if (rarely()) result.source = static_cast<PlanPiece::Source>(between(0, 3));
    return result;
  }

  std::mt19937 random_;
};

}  // namespace

TEST_CASE("plan: random plans agree with a model that goes row by row") {
  RandomDrafts drafts(20240917);
  int num_accepted = 0;
  int num_refused = 0;
  for (int round = 0; round < 20000; ++round) {
    CAPTURE(round);
    const PlanDraft draft = drafts.next();
    const std::string rule = test_support::broken_rule(draft);
    const Result<CompositionPlan> plan = draft.create();
    CAPTURE(rule);
    REQUIRE_MESSAGE(plan.ok() == rule.empty(), plan.status().to_string());
    if (!plan.ok()) {
      ++num_refused;
      continue;
    }
    ++num_accepted;
    REQUIRE(test_support::difference(*plan, draft) == "");

    std::vector<std::size_t> lost;
    std::vector<MissReason> reasons;
    for (std::size_t i = 0; i < draft.pieces.size(); ++i) {
      if (!draft.pieces[i].cached() || drafts.between(0, 1) == 0) continue;
      lost.push_back(i);
      reasons.push_back(static_cast<MissReason>(drafts.between(1, 5)));
    }
    const Result<CompositionPlan> rest = plan->without(lost, reasons);
    REQUIRE_MESSAGE(rest.ok(), rest.status().to_string());
    REQUIRE(test_support::difference(*rest, test_support::draft_without(draft, lost, reasons)) == "");
    REQUIRE(rest->exact_rows() >= plan->exact_rows());

    PlanDraft unrepaired = draft;
    unrepaired.repaired_rows.clear();
    const Result<CompositionPlan> cleared = plan->with_repaired_rows({});
    REQUIRE(cleared.ok());
    REQUIRE(test_support::difference(*cleared, unrepaired) == "");
  }
  MESSAGE("accepted ", num_accepted, ", refused ", num_refused);
  CHECK(num_accepted > 2000);
  CHECK(num_refused > 2000);
}
