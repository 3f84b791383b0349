// The error budget: how many rows each pass takes, when it stops, and what it asks to be done to the other rows.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "support/repair_plans.hpp"

namespace {

using pikv::CompositionPlan;
using pikv::RepairPass;
using pikv::RepairRun;
using test_support::begin;
using test_support::kMixedRows;
using test_support::kNumLayers;
using test_support::mixed_pieces;
using test_support::plan_of;
using test_support::Rows;
using test_support::scores_of;

/// Of two tokens, the first of this probability.
std::vector<float> logits_of(double probability) {
  return {static_cast<float>(std::log(probability)), static_cast<float>(std::log(1 - probability))};
}

double divergence(double now, double before) {
  return now * std::log(now / before) + (1 - now) * std::log((1 - now) / (1 - before));
}

/// Which token of its chunk stands in a row of mixed_pieces().
double chunk_token(std::int32_t row) { return row < 10 ? row - 2 : row < 20 ? row - 12 : 0; }

/// Attention by which later rows are wanted more, whatever their places in their chunks make of it.
std::vector<float> rising_attention() {
  std::vector<float> attention(24);
  for (const std::int32_t row : kMixedRows) {
    attention[static_cast<std::size_t>(row)] = static_cast<float>(row * std::sqrt(4 + chunk_token(row)));
  }
  return attention;
}

/// Goes through the run; the later the row, the more it is wanted. The rows of each pass.
std::vector<Rows> passes_of(RepairRun& run, const std::vector<double>& probabilities) {
  std::vector<Rows> passes;
  while (const std::optional<RepairPass> pass = run.next()) {
    const std::size_t index = passes.size();
    REQUIRE(index < probabilities.size());
    passes.push_back(pass->rows);
    CHECK(test_support::tell(run, *pass, rising_attention()) == pass->rows);
    if (run.wants_logits()) run.on_logits(logits_of(probabilities[index]));
  }
  return passes;
}

Rows last_rows(std::size_t from, std::size_t to) {
  return Rows(kMixedRows.end() - static_cast<std::ptrdiff_t>(to), kMixedRows.end() - static_cast<std::ptrdiff_t>(from));
}

}  // namespace

TEST_CASE("budget: without a tolerance the whole budget goes into one pass behind the question's") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto run = begin("budget:0,most=0.4", plan);
  std::optional<RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->rows.empty());
  CHECK(pass->key_drift_gain == 0);
  CHECK(pass->attention.first_layer == 0);
  CHECK(pass->attention.end_layer == kNumLayers);
  CHECK(pass->attention.from == pikv::RepairAttention::From::kQuestionAndAnswer);
  run->on_attention(scores_of(24, 0, {{5, 3}, {14, 2}, {20, 1}, {8, 0.5F}, {0, 9}, {23, 9}}));
  CHECK_FALSE(run->wants_logits());
  pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->rows == Rows{4, 5, 6, 8, 14, 20});  // of 15, and the lowest of those without attention
  CHECK_FALSE(pass->measures());
  CHECK(pass->key_drift_gain == 1);
  CHECK(pass->value_drift_gain == 1);
  CHECK_FALSE(run->next().has_value());
}

TEST_CASE("budget: of rows attended alike, those that stand first in their chunks are off most") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto run = begin("budget:0,most=0.4", plan);
  (void)run->next();
  run->on_attention(scores_of(24, 1, {{9, 3}}));  // the eighth token of its chunk
  const std::optional<RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->rows == Rows{4, 9, 12, 13, 14, 20});
}

TEST_CASE("budget: rows double until the answer changes no more") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  // Of 15 rows: 3, 6, and all, since 12 would leave too few for a pass of their own.
  const auto spec = "budget:0.01,start=0.2,most=1";
  REQUIRE(divergence(0.6, 0.5) > 0.01);
  REQUIRE(divergence(0.62, 0.6) < 0.01);
  CHECK(passes_of(*begin(spec, plan), {0.5, 0.6, 0.62}) == std::vector<Rows>{{}, last_rows(0, 3), last_rows(3, 6)});
  CHECK(passes_of(*begin(spec, plan), {0.5, 0.51}) == std::vector<Rows>{{}, last_rows(0, 3)});
  CHECK(passes_of(*begin(spec, plan), {0.5, 0.6, 0.5, 0.6}) ==
        std::vector<Rows>{{}, last_rows(0, 3), last_rows(3, 6), last_rows(6, 15)});
}

TEST_CASE("budget: the most that may be computed ends it, however the answer changes") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  CHECK(passes_of(*begin("budget:0.01,start=0.2,most=0.5", plan), {0.5, 0.6, 0.5}) ==
        std::vector<Rows>{{}, last_rows(0, 3), last_rows(3, 7)});
  CHECK(passes_of(*begin("budget:0.01,start=0.5,most=0.2", plan), {0.5, 0.6}) ==
        std::vector<Rows>{{}, last_rows(0, 3)});
  CHECK(passes_of(*begin("budget:0.01,most=0", plan), {0.5}) == std::vector<Rows>{{}});
}

TEST_CASE("budget: a tolerance in F1 is the divergence that Pinsker's inequality gives it") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const double change = divergence(0.6, 0.5);
  const double just_enough = std::sqrt(change / 2);
  const auto spec = [](double tolerance) {
    return "budget:" + std::to_string(tolerance) + ",unit=f1,start=0.2,most=1";
  };
  CHECK(passes_of(*begin(spec(just_enough + 1e-4), plan), {0.5, 0.6}).size() == 2);
  CHECK(passes_of(*begin(spec(just_enough - 1e-4), plan), {0.5, 0.6, 0.6}).size() == 3);
}

TEST_CASE("budget: gains are handed on, and probabilities of 0 are no trouble") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto run = begin("budget:0.01,keys=0.5,values=0,start=0.2,most=1", plan);
  (void)run->next();
  run->on_attention(std::vector<float>(24));
  const float infinity = std::numeric_limits<float>::infinity();
  run->on_logits(std::vector<float>{0, -infinity});
  const std::optional<RepairPass> pass = run->next();
  REQUIRE(pass.has_value());
  CHECK(pass->key_drift_gain == 0.5F);
  CHECK(pass->value_drift_gain == 0);
  run->on_logits(std::vector<float>{0, -infinity});
  CHECK_FALSE(run->next().has_value());
}
