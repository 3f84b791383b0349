// CompositionPlan: every invariant broken once, what good plans say of their rows, and random plans against a model
// that goes row by row.
#include "pikv/plan.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

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
using test_support::exact_chunk;
using test_support::kGeometry;
using test_support::PlanDraft;
using test_support::prefix;

constexpr std::int64_t kMax64 = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin64 = std::numeric_limits<std::int64_t>::min();
constexpr std::int32_t kMax32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t kMin32 = std::numeric_limits<std::int32_t>::min();

/// One piece of each kind, the last cached one with a stale anchor.
PlanDraft good_draft() {
  PlanDraft draft{.geometry = kGeometry,
                  .max_positions = 64,
                  .tokens = std::vector<pikv::TokenId>(24),
                  .pieces = {prefix(0, 4), exact_chunk(4, 8, 1, 6), computed(8, 10, MissReason::kNotFound),
                             chunk(10, 16, 2, 8), chunk(16, 20, 0, 4), computed(20, 24)},
                  .repaired_rows = {11, 15, 16}};
  std::iota(draft.tokens.begin(), draft.tokens.end(), 100U);
  draft.pieces[4].first_position = 3;
  return draft;
}

std::string message_of(const Result<CompositionPlan>& plan) {
  return plan.ok() ? "accepted" : std::string(plan.status().message());
}

void check_refused(const Result<CompositionPlan>& plan, const std::string& message_part) {
  INFO(message_of(plan));
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.status().code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(plan.status().message().find(message_part) != std::string_view::npos);
}

struct BadCase {
  const char* what;
  std::function<void(PlanDraft&)> breaks;
  const char* message_part;
};

/// good_draft() with one thing changed.
const BadCase kBadCases[] = {
    {"no layers", [](PlanDraft& d) { d.geometry.num_layers = 0; }, "num_layers"},
    {"no tokens", [](PlanDraft& d) { d.tokens.clear(); }, "plan: tokens:"},
    {"table too short", [](PlanDraft& d) { d.max_positions = 23; }, "plan: tokens: 24 rows"},
    {"table of nothing", [](PlanDraft& d) { d.max_positions = 0; }, "plan: tokens:"},
    {"negative table", [](PlanDraft& d) { d.max_positions = kMin32; }, "plan: tokens:"},

    {"no pieces", [](PlanDraft& d) { d.pieces.clear(); }, "plan: pieces:"},
    {"rows missing at the end", [](PlanDraft& d) { d.pieces.pop_back(); }, "plan: pieces: they end at row 20 of 24"},
    {"gap", [](PlanDraft& d) { d.pieces[2].row_begin = 9; }, "piece 2: row_begin: 9 where 8"},
    {"overlap", [](PlanDraft& d) { d.pieces[2].row_begin = 7; }, "piece 2: row_begin: 7 where 8"},
    {"first piece not at row 0", [](PlanDraft& d) { d.pieces[0].row_begin = 1; }, "piece 0: row_begin"},
    {"row_begin smallest", [](PlanDraft& d) { d.pieces[0].row_begin = kMin64; }, "piece 0: row_begin"},
    {"row_begin largest", [](PlanDraft& d) { d.pieces[3].row_begin = kMax64; }, "piece 3: row_begin"},
    {"order", [](PlanDraft& d) { std::swap(d.pieces[0], d.pieces[1]); }, "piece 0: row_begin"},
    {"empty piece", [](PlanDraft& d) { d.pieces[2].row_end = 8; }, "piece 2: row_end: 8 is not in (8, 24]"},
    {"piece backwards", [](PlanDraft& d) { d.pieces[2].row_end = 7; }, "piece 2: row_end"},
    {"piece beyond the prompt", [](PlanDraft& d) { d.pieces[5].row_end = 25; }, "piece 5: row_end: 25"},
    {"row_end smallest", [](PlanDraft& d) { d.pieces[1].row_end = kMin64; }, "piece 1: row_end"},
    {"row_end largest", [](PlanDraft& d) { d.pieces[1].row_end = kMax64; }, "piece 1: row_end"},
    {"no such source", [](PlanDraft& d) { d.pieces[3].source = static_cast<PlanPiece::Source>(3); }, "piece 3: source"},

    {"negative token", [](PlanDraft& d) { d.pieces[3].chunk_first_token = -1; }, "piece 3: chunk_first_token"},
    {"token behind the chunk", [](PlanDraft& d) { d.pieces[3].chunk_first_token = 3; },
     "piece 3: chunk_first_token: 6 rows from token 3 are not inside a chunk of 8"},
    {"token smallest", [](PlanDraft& d) { d.pieces[3].chunk_first_token = kMin64; }, "piece 3: chunk_first_token"},
    {"token largest", [](PlanDraft& d) { d.pieces[3].chunk_first_token = kMax64; }, "piece 3: chunk_first_token"},
    {"chunk of nothing", [](PlanDraft& d) { d.pieces[3].chunk_num_tokens = 0; }, "piece 3: chunk_num_tokens"},
    {"chunk shorter than its piece", [](PlanDraft& d) { d.pieces[3].chunk_num_tokens = 5; },
     "piece 3: chunk_num_tokens: 6 rows from a chunk of 5"},
    {"chunk smallest", [](PlanDraft& d) { d.pieces[3].chunk_num_tokens = kMin64; }, "piece 3: chunk_num_tokens"},
    {"chunk largest", [](PlanDraft& d) { d.pieces[3].chunk_num_tokens = kMax64; }, "piece 3: chunk_num_tokens"},
    {"chunk ends behind the prompt", [](PlanDraft& d) { d.pieces[3].chunk_num_tokens = 17; },
     "piece 3: chunk_num_tokens"},
    {"chunk begins before the prompt",
     [](PlanDraft& d) {
       d.pieces[3].chunk_first_token = 11;
       d.pieces[3].chunk_num_tokens = 17;
     },
     "piece 3: chunk_num_tokens: the whole chunk"},
    {"token and chunk largest",
     [](PlanDraft& d) {
       d.pieces[3].chunk_first_token = kMax64 - 6;
       d.pieces[3].chunk_num_tokens = kMax64;
     },
     "piece 3: chunk_num_tokens"},

    {"negative position", [](PlanDraft& d) { d.pieces[3].first_position = -1; }, "piece 3: first_position"},
    {"last position behind the table", [](PlanDraft& d) { d.pieces[3].first_position = 59; },
     "piece 3: first_position: 6 positions from 59 are not inside a table of 64"},
    {"position smallest", [](PlanDraft& d) { d.pieces[3].first_position = kMin32; }, "piece 3: first_position"},
    {"position largest", [](PlanDraft& d) { d.pieces[3].first_position = kMax32; }, "piece 3: first_position"},
    {"position largest in a table as large",
     [](PlanDraft& d) {
       d.max_positions = kMax32;
       d.pieces[3].first_position = kMax32;
     },
     "piece 3: first_position"},

    {"computed but exact", [](PlanDraft& d) { d.pieces[2].provenance = Provenance::kExactSegment; },
     "piece 2: provenance: a computed piece is always fresh"},
    {"computed but approximate", [](PlanDraft& d) { d.pieces[5].provenance = Provenance::kApproximate; },
     "piece 5: provenance"},
    {"prefix called a segment", [](PlanDraft& d) { d.pieces[0].provenance = Provenance::kExactSegment; },
     "piece 0: provenance: exact segment does not fit"},
    {"approximate prefix before an exact chunk",
     [](PlanDraft& d) { d.pieces[0].provenance = Provenance::kApproximate; },
     "piece 1: provenance: exact rows behind approximate ones"},
    {"approximate prefix out of place",
     [](PlanDraft& d) {
       for (PlanPiece& piece : d.pieces) {
         if (piece.cached()) piece.provenance = Provenance::kApproximate;
       }
       d.pieces[0].first_position = 1;
     },
     "piece 0: first_position: an exact prefix that is not anchored in place"},
    {"chunk called prefix", [](PlanDraft& d) { d.pieces[1].provenance = Provenance::kExactPrefix; },
     "piece 1: provenance: exact prefix does not fit"},
    {"chunk called fresh", [](PlanDraft& d) { d.pieces[3].provenance = Provenance::kFresh; }, "piece 3: provenance"},
    {"chunk called repaired", [](PlanDraft& d) { d.pieces[3].provenance = Provenance::kRepaired; },
     "piece 3: provenance"},
    {"no such provenance", [](PlanDraft& d) { d.pieces[3].provenance = static_cast<Provenance>(200); },
     "piece 3: provenance: unknown"},
    {"exact chunk behind approximate rows",
     [](PlanDraft& d) {
       d.pieces[4].provenance = Provenance::kExactSegment;
       d.pieces[4].first_position = 16;
       d.repaired_rows = {};
     },
     "piece 4: provenance: exact rows behind approximate"},
    {"exact prefix behind approximate rows",
     [](PlanDraft& d) {
       d.pieces[4] = prefix(16, 20);
       d.repaired_rows = {};
     },
     "piece 4: provenance: exact rows behind approximate"},
    {"exact prefix not in place", [](PlanDraft& d) { d.pieces[0].first_position = 1; }, "piece 0: first_position"},
    {"exact chunk not in place", [](PlanDraft& d) { d.pieces[1].first_position = 0; },
     "piece 1: first_position: exact rows that are not anchored in place"},

    {"last row cached",
     [](PlanDraft& d) {
       d.tokens.resize(20);
       d.pieces.pop_back();
     },
     "piece 4: source: the last row has to be computed"},

    {"repaired row of a computed piece", [](PlanDraft& d) { d.repaired_rows = {8}; }, "repaired_rows: row 8 is not"},
    {"repaired row of an exact prefix", [](PlanDraft& d) { d.repaired_rows = {0}; }, "repaired_rows: row 0 is not"},
    {"repaired row of an exact chunk",
     [](PlanDraft& d) {
       d.repaired_rows = {7, 11};
     },
     "repaired_rows: row 7 is not"},
    {"repaired row behind the prompt", [](PlanDraft& d) { d.repaired_rows = {24}; }, "repaired_rows: row 24 is not"},
    {"repaired row largest",
     [](PlanDraft& d) {
       d.repaired_rows = {11, kMax32};
     },
     "repaired_rows: row 2147483647"},
    {"repaired row negative", [](PlanDraft& d) { d.repaired_rows = {-1}; }, "repaired_rows: -1"},
    {"repaired row smallest", [](PlanDraft& d) { d.repaired_rows = {kMin32}; }, "repaired_rows: -2147483648"},
    {"repaired rows twice",
     [](PlanDraft& d) {
       d.repaired_rows = {11, 11};
     },
     "repaired_rows: 11 does not ascend"},
    {"repaired rows descending",
     [](PlanDraft& d) {
       d.repaired_rows = {12, 11};
     },
     "repaired_rows: 11 does not ascend"},
};

}  // namespace

TEST_CASE("plan: each broken invariant is refused and named") {
  REQUIRE(good_draft().create().ok());
  for (const BadCase& bad : kBadCases) {
    CAPTURE(std::string(bad.what));
    PlanDraft draft = good_draft();
    bad.breaks(draft);
    CHECK(test_support::broken_rule(draft) != "");
    check_refused(draft.create(), bad.message_part);
  }
}

TEST_CASE("plan: a good plan's figures") {
  const Result<CompositionPlan> plan = good_draft().create();
  REQUIRE_MESSAGE(plan.ok(), message_of(plan));
  CHECK(test_support::difference(*plan, good_draft()) == "");
  CHECK(plan->num_rows() == 24);
  CHECK(plan->exact_rows() == 10);
  CHECK(std::vector<std::int32_t>(plan->rows_to_compute().begin(), plan->rows_to_compute().end()) ==
        std::vector<std::int32_t>{8, 9, 11, 15, 16, 20, 21, 22, 23});
  CHECK(plan->stats().exact_prefix_tokens == 4);
  CHECK(plan->stats().exact_segment_tokens == 4);
  CHECK(plan->stats().approximate_tokens == 7);
  CHECK(plan->stats().repaired_tokens == 3);
  CHECK(plan->stats().fresh_tokens == 6);
  CHECK(plan->stats().bytes_to_move == 18 * 128);
  CHECK(plan->stats().reused_tokens() == 15);
  CHECK(plan->stats().computed_tokens() == 9);
  CHECK(plan->provenance(0) == Provenance::kExactPrefix);
  CHECK(plan->provenance(3) == Provenance::kExactPrefix);
  CHECK(plan->provenance(4) == Provenance::kExactSegment);
  CHECK(plan->provenance(9) == Provenance::kFresh);
  CHECK(plan->provenance(10) == Provenance::kApproximate);
  CHECK(plan->provenance(11) == Provenance::kRepaired);
  CHECK(plan->provenance(23) == Provenance::kFresh);
}

TEST_CASE("plan: the smallest and the widest") {
  PlanDraft one{
      .geometry = kGeometry, .max_positions = 1, .tokens = {7}, .pieces = {computed(0, 1)}, .repaired_rows = {}};
  const Result<CompositionPlan> plan = one.create();
  REQUIRE(plan.ok());
  CHECK(plan->exact_rows() == 1);
  CHECK(plan->rows_to_compute().size() == 1);
  CHECK(plan->stats().bytes_to_move == 0);

  PlanDraft wide = good_draft();
  wide.max_positions = kMax32;
  wide.pieces[4].first_position = kMax32 - 4;  // the table's last four positions
  CHECK(wide.create().ok());
  wide.pieces[4].first_position = kMax32 - 3;
  check_refused(wide.create(), "piece 4: first_position");
}

TEST_CASE("plan: exact pieces behind computed rows stay exact") {
  PlanDraft draft = good_draft();
  draft.pieces = {prefix(0, 4), computed(4, 8, MissReason::kTierUnavailable), prefix(8, 12), chunk(12, 20, 0, 8),
                  computed(20, 24)};
  draft.repaired_rows = {};
  const Result<CompositionPlan> plan = draft.create();
  REQUIRE_MESSAGE(plan.ok(), message_of(plan));
  CHECK(plan->exact_rows() == 12);
}

TEST_CASE("plan: repairing every approximate row makes none of them exact") {
  PlanDraft draft = good_draft();
  draft.repaired_rows.resize(10);
  std::iota(draft.repaired_rows.begin(), draft.repaired_rows.end(), 10);
  const Result<CompositionPlan> plan = draft.create();
  REQUIRE(plan.ok());
  CHECK(plan->exact_rows() == 10);
  CHECK(plan->stats().approximate_tokens == 0);
}

TEST_CASE("plan: a byte count beyond 63 bits is refused") {
  PlanDraft draft{.geometry = {.num_layers = 1 << 10,
                               .num_kv_heads = 1 << 10,
                               .head_dim = 1 << 18,
                               .rotary_dim = 64,
                               .dtype = pikv::DType::kBFloat16},
                  .max_positions = kMax32,
                  .tokens = std::vector<pikv::TokenId>((std::size_t{1} << 23) - 1),
                  .pieces = {},
                  .repaired_rows = {}};
  REQUIRE(draft.geometry.bytes_per_token() == std::int64_t{1} << 40);
  const auto fill = [&draft] {
    const auto num_rows = static_cast<std::int64_t>(draft.tokens.size());
    draft.pieces = {chunk(0, num_rows - 1, 0, num_rows - 1), computed(num_rows - 1, num_rows)};
  };
  fill();
  const Result<CompositionPlan> plan = draft.create();
  REQUIRE_MESSAGE(plan.ok(), message_of(plan));
  CHECK(plan->stats().bytes_to_move == ((std::int64_t{1} << 23) - 2) << 40);

  draft.tokens.push_back(0);
  fill();
  check_refused(draft.create(), "plan: tokens:");
}

TEST_CASE("plan: without() computes pieces instead and says why") {
  const Result<CompositionPlan> plan = good_draft().create();
  REQUIRE(plan.ok());
  const std::vector<std::size_t> indices{4, 0};  // in any order
  const std::vector<MissReason> reasons{MissReason::kVerifyFailed, MissReason::kNoRoom};
  const Result<CompositionPlan> rest = plan->without(indices, reasons);
  REQUIRE_MESSAGE(rest.ok(), message_of(rest));
  CHECK(test_support::difference(*rest, test_support::draft_without(good_draft(), indices, reasons)) == "");
  CHECK(rest->pieces()[0].miss == MissReason::kNoRoom);
  CHECK(rest->pieces()[2].miss == MissReason::kNotFound);
  CHECK(rest->pieces()[4].miss == MissReason::kVerifyFailed);
  CHECK(rest->pieces()[4].key == pikv::ChunkKey{});
  CHECK(rest->repaired_rows().size() == 2);  // row 16 went with its piece
  CHECK(rest->provenance(16) == Provenance::kFresh);
  CHECK(rest->provenance(15) == Provenance::kRepaired);
  CHECK(plan->provenance(16) == Provenance::kRepaired);  // the plan itself is as it was

  const Result<CompositionPlan> less = rest->without(std::vector<std::size_t>{3}, std::vector{MissReason::kNotFound});
  REQUIRE(less.ok());
  CHECK(less->exact_rows() == 24);
  CHECK(less->repaired_rows().empty());
  CHECK(less->pieces()[1].provenance == Provenance::kExactSegment);

  const Result<CompositionPlan> same = plan->without({}, {});
  REQUIRE(same.ok());
  CHECK(test_support::difference(*same, good_draft()) == "");
}

TEST_CASE("plan: with_approximate() takes exactness from pieces and from all behind them") {
  const Result<CompositionPlan> plan = good_draft().create();
  REQUIRE(plan.ok());
  REQUIRE(plan->exact_rows() == 10);
  PlanDraft from_chunk = good_draft();
  from_chunk.pieces[1].provenance = Provenance::kApproximate;
  PlanDraft from_prefix = from_chunk;
  from_prefix.pieces[0].provenance = Provenance::kApproximate;

  const Result<CompositionPlan> second = plan->with_approximate(std::vector<std::size_t>{1});
  REQUIRE_MESSAGE(second.ok(), message_of(second));
  CHECK(test_support::difference(*second, from_chunk) == "");
  CHECK(second->exact_rows() == 4);
  const Result<CompositionPlan> first = plan->with_approximate(std::vector<std::size_t>{4, 0});
  REQUIRE_MESSAGE(first.ok(), message_of(first));
  CHECK(test_support::difference(*first, from_prefix) == "");
  CHECK(first->exact_rows() == 0);
  CHECK(first->provenance(0) == Provenance::kApproximate);
  CHECK(first->pieces()[0].source == PlanPiece::Source::kExactPrefix);
  for (const std::vector<std::size_t>& nothing : {std::vector<std::size_t>{}, std::vector<std::size_t>{3, 3}}) {
    const Result<CompositionPlan> same = plan->with_approximate(nothing);
    REQUIRE(same.ok());
    CHECK(test_support::difference(*same, good_draft()) == "");
  }
  check_refused(plan->with_approximate(std::vector<std::size_t>{2}), "piece 2: source: is computed");
  check_refused(plan->with_approximate(std::vector<std::size_t>{6}), "piece 6: index: there is no such piece");
}

TEST_CASE("plan: without() refuses what it cannot take away") {
  const Result<CompositionPlan> plan = good_draft().create();
  REQUIRE(plan.ok());
  const std::vector<MissReason> one{MissReason::kNotFound};
  const std::vector<MissReason> two{MissReason::kNotFound, MissReason::kNotFound};
  check_refused(plan->without(std::vector<std::size_t>{2}, one), "piece 2: source: is computed already");
  check_refused(plan->without(std::vector<std::size_t>{6}, one), "piece 6: index");
  check_refused(plan->without(std::vector<std::size_t>{std::numeric_limits<std::size_t>::max()}, one), "index");
  check_refused(plan->without(std::vector<std::size_t>{1, 1}, two), "piece 1: source");
  check_refused(plan->without(std::vector<std::size_t>{1}, two), "1 pieces but 2 reasons");
  check_refused(plan->without(std::vector<std::size_t>{1}, {}), "1 pieces but 0 reasons");
}

TEST_CASE("plan: with_repaired_rows() replaces what was repaired before") {
  const Result<CompositionPlan> plan = good_draft().create();
  REQUIRE(plan.ok());
  const Result<CompositionPlan> other = plan->with_repaired_rows({10, 19});
  REQUIRE(other.ok());
  PlanDraft expected = good_draft();
  expected.repaired_rows = {10, 19};
  CHECK(test_support::difference(*other, expected) == "");
  const Result<CompositionPlan> none = plan->with_repaired_rows({});
  REQUIRE(none.ok());
  CHECK(none->stats().repaired_tokens == 0);
  check_refused(plan->with_repaired_rows({20}), "repaired_rows: row 20 is not");
}

TEST_CASE("plan: prompts own their tokens and leave empty segments out") {
  pikv::Prompt prompt;
  std::vector<pikv::TokenId> tokens{1, 2, 3};
  prompt.add_fresh({});
  prompt.add_fresh(tokens);
  prompt.add_chunk({}, pikv::ChunkRecipe::alone());
  prompt.add_chunk(tokens, pikv::ChunkRecipe::alone(), pikv::Anchor::at(0));
  tokens.assign(3, 9);
  REQUIRE(prompt.segments().size() == 2);
  CHECK(prompt.num_rows() == 6);
  CHECK(prompt.tokens()[5] == 3);
  CHECK_FALSE(prompt.segments()[0].recipe.has_value());
  CHECK(prompt.segments()[1].row_begin == 3);
  CHECK(prompt.segments()[1].row_end == 6);
  CHECK(prompt.segments()[1].recipe == pikv::ChunkRecipe::alone());
  CHECK(prompt.segments()[1].anchor.resolve(3) == 0);
  CHECK(pikv::Anchor::in_place().resolve(3) == 3);
  CHECK_FALSE(pikv::Anchor::at(-1).is_in_place());
}

TEST_CASE("plan: every provenance has a name") {
  CHECK(std::string(pikv::provenance_name(Provenance::kExactPrefix)) == "exact prefix");
  CHECK(std::string(pikv::provenance_name(Provenance::kExactSegment)) == "exact segment");
  CHECK(std::string(pikv::provenance_name(Provenance::kApproximate)) == "approximate");
  CHECK(std::string(pikv::provenance_name(Provenance::kRepaired)) == "repaired");
  CHECK(std::string(pikv::provenance_name(Provenance::kFresh)) == "fresh");
  CHECK(std::string(pikv::provenance_name(static_cast<Provenance>(99))) == "unknown");
}
