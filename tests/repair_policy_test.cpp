// Repair policies: the exact rows of every pass, for scores made up.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "repair/row_choice.hpp"
#include "support/repair_plans.hpp"

namespace {

using pikv::CompositionPlan;
using pikv::RepairPass;
using pikv::RepairRun;
using pikv::RepairSignal;
using test_support::begin;
using test_support::chunk;
using test_support::computed;
using test_support::kMixedRows;
using test_support::kNaN;
using test_support::kNumLayers;
using test_support::mixed_pieces;
using test_support::only_pass;
using test_support::plan_of;
using test_support::Rows;
using test_support::scores_of;
using test_support::tell;

constexpr const char* kSpecs[] = {"none",
                                  "all",
                                  "first:2",
                                  "ends:2",
                                  "blend:0.4",
                                  "blend-gradual:0.4",
                                  "focus:0.4",
                                  "prophet:1",
                                  "attention:1",
                                  "random:0.4",
                                  "attended-deviation:0.4",
                                  "budget:0,most=0.4"};

/// Of a pass in which only the question is computed.
void check_question_pass(const RepairPass& pass, std::int32_t first_layer) {
  CHECK(pass.rows.empty());
  CHECK(pass.probes.empty());
  CHECK(pass.attention.first_layer == first_layer);
  CHECK(pass.attention.end_layer == kNumLayers);
  CHECK(pass.attention.from == pikv::RepairAttention::From::kQuestion);
}

}  // namespace

TEST_CASE("repair: a plan with nothing approximate gets one pass without rows from every policy") {
  const CompositionPlan fresh = plan_of({computed(0, 5)});
  const CompositionPlan exact = plan_of({test_support::exact_chunk(0, 4, 0, 4), computed(4, 5)});
  const CompositionPlan repaired = plan_of({computed(0, 1), chunk(1, 3, 0, 2), computed(3, 5)}, {1, 2});
  for (const char* spec : kSpecs) {
    CAPTURE(spec);
    for (const CompositionPlan* plan : {&fresh, &exact, &repaired}) CHECK(only_pass(spec, *plan).empty());
  }
}

TEST_CASE("repair: a fraction of 0 asks for no row, and measures nothing") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  for (const char* spec :
       {"blend:0", "blend-gradual:0", "attention:0", "prophet:0", "attended-deviation:0", "focus:0", "random:0"}) {
    CAPTURE(spec);
    CHECK(only_pass(spec, plan).empty());
  }
}

TEST_CASE("repair: who says to know its rows ahead takes one pass and measures nothing, and nobody else does") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  std::set<std::string> known_ahead;
  for (const char* spec : kSpecs) {
    CAPTURE(spec);
    const std::unique_ptr<RepairRun> run = begin(spec, plan);
    const std::optional<RepairPass> pass = run->next();
    REQUIRE(pass.has_value());
    const bool is_known = !pass->measures() && !run->next().has_value();
    const bool says_so = pikv::make_repair_policy(spec).value()->knows_rows_ahead();
    CHECK(says_so == is_known);
    if (says_so) known_ahead.insert(spec);
  }
  CHECK(known_ahead == std::set<std::string>{"none", "all", "first:2", "ends:2", "random:0.4"});
}

TEST_CASE("repair: models with too few layers are refused") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto begins = [&plan](const char* spec, std::int32_t num_layers) {
    return pikv::make_repair_policy(spec).value()->begin({.plan = plan, .num_layers = num_layers});
  };
  CHECK(begins("blend:0.4", 2).ok());
  CHECK(begins("blend-gradual:0.4", 4).ok());
  CHECK(begins("focus:0.4", 1).ok());
  CHECK(begins("blend:0.4", 1).status().message() ==
        "repair policy blend:0.4: num_layers: a model of 1 layers, at least 2 are needed");
  CHECK(begins("blend-gradual:0.4", 3).status().code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(begins("attended-deviation:0.4,layer=5", 5).status().code() == pikv::ErrorCode::kInvalidArgument);
  for (const char* spec : kSpecs) CHECK_FALSE(begins(spec, 0).ok());
}

TEST_CASE("repair: none and all") {
  CHECK(only_pass("none", plan_of(mixed_pieces())).empty());
  CHECK(only_pass("all", plan_of(mixed_pieces())) == kMixedRows);
  CHECK(only_pass("all", plan_of(mixed_pieces(), {4, 13, 20})) == Rows{5, 6, 7, 8, 9, 12, 14, 15, 16, 17, 18, 19});
}

TEST_CASE("repair: first rows are the chunk's own first tokens") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  CHECK(only_pass("first:1", plan) == Rows{12, 20});
  CHECK(only_pass("first:2", plan) == Rows{12, 13, 20});
  CHECK(only_pass("first:3", plan) == Rows{4, 12, 13, 14, 20});
  CHECK(only_pass("first:2147483647", plan) == kMixedRows);
  CHECK(only_pass("first:3,skip=1", plan) == Rows{12, 13, 14, 20});
  CHECK(only_pass("first:3,skip=2", plan) == Rows{20});
  CHECK(only_pass("first:3,skip=3", plan).empty());
  CHECK(only_pass("first:2", plan_of(mixed_pieces(), {12})) == Rows{13, 20});
}

TEST_CASE("repair: end rows are the chunk's own first and last tokens, once where they meet") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  CHECK(only_pass("ends:1", plan) == Rows{9, 12, 19, 20});
  CHECK(only_pass("ends:3", plan) == Rows{4, 7, 8, 9, 12, 13, 14, 17, 18, 19, 20});
  CHECK(only_pass("ends:4", plan) == kMixedRows);
  CHECK(only_pass("ends:2147483647", plan) == kMixedRows);
}

TEST_CASE("repair: a lossy exact prefix lacks no context, but is approximate") {
  std::vector<pikv::PlanPiece> pieces{test_support::prefix(0, 4), chunk(4, 7, 0, 3), computed(7, 8)};
  pieces[0].provenance = pikv::Provenance::kApproximate;
  const CompositionPlan plan = plan_of(pieces);
  CHECK(only_pass("first:1", plan) == Rows{4});
  CHECK(only_pass("first:1,skip=1", plan).empty());
  CHECK(only_pass("ends:1", plan) == Rows{4, 6});
  CHECK(only_pass("all", plan) == Rows{0, 1, 2, 3, 4, 5, 6});
}

TEST_CASE("repair: blend narrows at its check layer, by value unless told otherwise") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const std::unique_ptr<RepairRun> run = begin("blend:0.2", plan);
  const std::optional<RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->rows == kMixedRows);
  REQUIRE(pass->probes.size() == 1);
  CHECK(pass->probes[0].layer == 1);
  CHECK(pass->probes[0].signal == RepairSignal::kDeviation);
  CHECK(pass->probes[0].key_weight == 0.0F);
  CHECK(pass->probes[0].value_weight == 1.0F);
  // Rows that are not approximate do not count, however they score.
  CHECK(tell(*run, *pass, scores_of(24, kNaN, {{0, 99.0F}, {23, 99.0F}, {6, 1.0F}, {14, 3.0F}, {20, 2.0F}})) ==
        Rows{6, 14, 20});
  CHECK_FALSE(run->next().has_value());

  const std::unique_ptr<RepairRun> keys = begin("blend:0.2,layer=3,signal=k", plan);
  const pikv::RepairProbe probe = keys->next()->probes.at(0);
  CHECK(probe.layer == 3);
  CHECK(probe.key_weight == 1.0F);
  CHECK(probe.value_weight == 0.0F);
  const pikv::RepairProbe both = begin("blend:0.2,signal=kv", plan)->next()->probes.at(0);
  CHECK(both.key_weight == 1.0F);
  CHECK(both.value_weight == 1.0F);
}

TEST_CASE("repair: fractions are rounded down, to one row at least") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto kept = [&plan](const char* spec) {
    const std::unique_ptr<RepairRun> run = begin(spec, plan);
    return tell(*run, *run->next(), scores_of(24, 1.0F, {})).size();
  };
  CHECK(kept("blend:0.0001") == 1);
  CHECK(kept("blend:0.13") == 1);
  CHECK(kept("blend:0.14") == 2);
  CHECK(kept("blend:0.999") == 14);
  CHECK(kept("blend:1") == 15);
  CHECK(pikv::detail::rows_of_fraction(0.29, 100) == 29);  // the product is less than 29
  CHECK(pikv::detail::rows_of_fraction(0.07, 100) == 7);   // the product is more than 7
  CHECK(pikv::detail::rows_of_fraction(0.1, 0) == 0);
  CHECK(pikv::detail::rows_of_fraction(1, 131071) == 131071);
}

TEST_CASE("repair: of equal scores the lower rows go on, and NaN only for want of others") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto rest = [&plan](const std::vector<float>& scores) {
    const std::unique_ptr<RepairRun> run = begin("blend:0.2", plan);
    return tell(*run, *run->next(), scores);
  };
  CHECK(rest(scores_of(24, 1.0F, {})) == Rows{4, 5, 6});
  CHECK(rest(scores_of(24, 1.0F, {{19, 2.0F}})) == Rows{4, 5, 19});
  CHECK(rest(scores_of(24, kNaN, {})) == Rows{4, 5, 6});
  CHECK(rest(scores_of(24, kNaN, {{9, -INFINITY}, {20, -0.0F}})) == Rows{4, 9, 20});
  CHECK(rest(scores_of(24, 0.0F, {{4, kNaN}, {5, -0.0F}})) == Rows{5, 6, 7});
}

TEST_CASE("repair: the gradual filter selects among survivors, geometrically") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const std::unique_ptr<RepairRun> run = begin("blend-gradual:0.2,layers=1+2+4,signal=k", plan);
  const std::optional<RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->rows == kMixedRows);
  REQUIRE(pass->probes.size() == 3);
  CHECK(pass->probes[2].layer == 4);
  CHECK(pass->probes[2].key_weight == 1.0F);
  std::vector<float> rising(24);
  for (std::size_t row = 0; row < rising.size(); ++row) rising[row] = static_cast<float>(row);
  // 15 rows by 0.2^(1/3) = 0.585, 0.2^(2/3) = 0.342, 0.2: 8, 5 and 3.
  CHECK(run->on_scores(pass->probes[0], rising) == Rows{13, 14, 15, 16, 17, 18, 19, 20});
  CHECK(run->on_scores(pass->probes[1], scores_of(24, 0.0F, {{4, 9.0F}, {20, 1.0F}})) == Rows{13, 14, 15, 16, 20});
  CHECK(run->on_scores(pass->probes[2], rising) == Rows{15, 16, 20});
  CHECK_FALSE(run->next().has_value());

  const RepairPass defaults = *begin("blend-gradual:0.2", plan)->next();
  REQUIRE(defaults.probes.size() == 3);
  CHECK(defaults.probes[0].layer == 1);
  CHECK(defaults.probes[2].layer == 3);

  // One check is blend.
  const std::unique_ptr<RepairRun> single = begin("blend-gradual:0.2,layers=2", plan);
  CHECK(tell(*single, *single->next(), rising) == Rows{18, 19, 20});
}

TEST_CASE("repair: attention asks the last layer of the question alone") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const std::unique_ptr<RepairRun> run = begin("attention:0.2", plan);
  const std::optional<RepairPass> question = run->next();
  REQUIRE(question.has_value());
  check_question_pass(*question, kNumLayers - 1);
  CHECK(tell(*run, *question, scores_of(24, 0.0F, {{0, 9.0F}, {22, 9.0F}, {8, 2.0F}, {17, 1.0F}})).empty());
  const std::optional<RepairPass> repair = run->next();
  REQUIRE(repair.has_value());
  CHECK(repair->rows == Rows{4, 8, 17});
  CHECK(repair->probes.empty());
  CHECK_FALSE(run->next().has_value());
}

TEST_CASE("repair: prophet takes all layers") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const std::unique_ptr<RepairRun> run = begin("prophet:0.2", plan);
  const std::optional<RepairPass> question = run->next();
  REQUIRE(question.has_value());
  check_question_pass(*question, 0);
  CHECK(tell(*run, *question, scores_of(24, 0.0F, {{13, 0.5F}, {16, 0.25F}, {7, 0.3F}, {4, kNaN}})).empty());
  const std::optional<RepairPass> repair = run->next();
  REQUIRE(repair.has_value());
  CHECK(repair->rows == Rows{7, 13, 16});
  CHECK(repair->probes.empty());
  CHECK_FALSE(run->next().has_value());
}

TEST_CASE("repair: attended deviation ranks by the product") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const std::unique_ptr<RepairRun> run = begin("attended-deviation:0.2", plan);
  const std::optional<RepairPass> question = run->next();
  REQUIRE(question.has_value());
  check_question_pass(*question, 0);
  CHECK(tell(*run, *question, scores_of(24, 1.0F, {{5, 0.0F}, {9, 3.0F}, {14, 2.0F}, {18, kNaN}})).empty());
  const std::optional<RepairPass> repair = run->next();
  REQUIRE(repair.has_value());
  CHECK(repair->rows == kMixedRows);
  REQUIRE(repair->probes.size() == 1);
  CHECK(repair->probes[0].layer == 1);
  CHECK(repair->probes[0].signal == RepairSignal::kDeviation);
  // Products: 9 gets 6, 14 gets 8, 20 gets 7; 5 and 18 lose their large deviations.
  CHECK(tell(*run, *repair, scores_of(24, 1.0F, {{5, 99.0F}, {9, 2.0F}, {14, 4.0F}, {18, 99.0F}, {20, 7.0F}})) ==
        Rows{9, 14, 20});
  CHECK_FALSE(run->next().has_value());
}

TEST_CASE("repair: focus lets rows of chunks go that the question does not look at") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  // Mean attention: 4..9 one each, 12..19 a quarter each, 20 two. 20 and 4..9 hold 8 of 10.
  std::vector<float> attention = scores_of(24, 0.25F, {{20, 2.0F}});
  for (std::size_t row = 4; row < 10; ++row) attention[row] = 1.0F;
  const auto second_pass = [&](const char* spec, std::int32_t num_layers) {
    std::unique_ptr<RepairRun> run = begin(spec, plan, num_layers);
    CHECK(tell(*run, *run->next(), attention).empty());
    return run;
  };
  const std::unique_ptr<RepairRun> run = second_pass("focus:0.4", kNumLayers);
  const std::optional<RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->rows == Rows{4, 5, 12, 13, 14, 20});
  REQUIRE(pass->probes.size() == 1);
  CHECK(pass->probes[0].layer == 2);  // of six, so that three layers see all rows
  CHECK(pass->probes[0].signal == RepairSignal::kNone);
  CHECK(run->on_scores(pass->probes[0], {}) == Rows{4, 5, 20});
  CHECK_FALSE(run->next().has_value());

  const std::unique_ptr<RepairRun> tight = second_pass("focus:0.4,mass=0.2,stop=0.9", kNumLayers);
  const RepairPass late = *tight->next();
  CHECK(late.probes.at(0).layer == 4);
  CHECK(tight->on_scores(late.probes[0], {}) == Rows{20});

  const RepairPass never = *second_pass("focus:0.4,stop=1", kNumLayers)->next();
  CHECK(never.probes.empty());
  CHECK(never.rows == Rows{4, 5, 12, 13, 14, 20});
  const RepairPass one_layer = *second_pass("focus:0.4", 1)->next();
  CHECK(one_layer.probes.empty());
  CHECK(one_layer.rows == Rows{4, 5, 20});
}

TEST_CASE("repair: focus puts a chunk with a NaN last") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto focused = [&plan](const char* spec) {
    const std::unique_ptr<RepairRun> run = begin(spec, plan);
    CHECK(tell(*run, *run->next(), scores_of(24, 1.0F, {{5, kNaN}})).empty());
    return run->next()->rows;
  };
  CHECK(focused("focus:0.2,stop=0") == Rows{12});  // eight of nine; of equal means the chunk in front is first
  CHECK(focused("focus:0.2,stop=0,mass=1") == Rows{12, 20});
}

TEST_CASE("repair: random rows depend on the seed alone") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const Rows rows = only_pass("random:0.4,seed=7", plan);
  CHECK(rows.size() == 6);
  CHECK(rows == only_pass("random:0.4,seed=7", plan));
  CHECK(std::is_sorted(rows.begin(), rows.end()));
  std::set<Rows> different;
  std::set<std::int32_t> seen;
  for (int seed = 0; seed < 40; ++seed) {
    const Rows other = only_pass("random:0.4,seed=" + std::to_string(seed), plan);
    CHECK(other.size() == 6);
    CHECK(std::includes(kMixedRows.begin(), kMixedRows.end(), other.begin(), other.end()));
    CHECK(std::set<std::int32_t>(other.begin(), other.end()).size() == 6);
    different.insert(other);
    seen.insert(other.begin(), other.end());
  }
  CHECK(different.size() > 30);
  CHECK(seen.size() == kMixedRows.size());
  CHECK(only_pass("random:1", plan) == kMixedRows);
}

TEST_CASE("repair: runs of one policy do not see each other, and equal scores give equal rows") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const std::vector<float> scores = scores_of(24, 0.5F, {{7, 3.0F}, {16, 2.0F}, {18, kNaN}});
  for (const char* spec : kSpecs) {
    CAPTURE(spec);
    const std::unique_ptr<pikv::RepairPolicy> policy = pikv::make_repair_policy(spec).value();
    const pikv::RepairRequest request{.plan = plan, .num_layers = kNumLayers};
    const std::unique_ptr<RepairRun> first = policy->begin(request).value();
    const std::unique_ptr<RepairRun> second = policy->begin(request).value();
    CHECK_FALSE(first->wants_logits());
    int num_passes = 0;
    for (std::optional<RepairPass> pass = first->next(); pass; pass = first->next(), ++num_passes) {
      const std::optional<RepairPass> same = second->next();
      REQUIRE(same.has_value());
      CHECK(same->rows == pass->rows);
      CHECK(tell(*first, *pass, scores) == tell(*second, *same, scores));
    }
    CHECK(num_passes >= 1);
    CHECK_FALSE(second->next().has_value());
  }
}
