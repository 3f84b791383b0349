// Cache-Craft: the formulas against numbers worked out by hand, and the rows that the policy recomputes.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "pikv/cache_craft.hpp"
#include "support/repair_plans.hpp"

namespace {

using pikv::ChunkContextStats;
using pikv::ChunkKey;
using pikv::CompositionPlan;
using test_support::kMixedRows;
using test_support::mixed_pieces;
using test_support::plan_of;
using test_support::Rows;

ChunkKey key(int first_byte) {
  ChunkKey key;
  key.bytes[0] = static_cast<std::byte>(first_byte);
  return key;
}

/// Of a chunk of `num_tokens`, whose tokens paid more the later they stand.
ChunkContextStats stats_of(std::int64_t num_tokens, std::vector<pikv::PrecedingChunk> preceding, double intra) {
  ChunkContextStats stats{.num_tokens = num_tokens,
                          .preceding = std::move(preceding),
                          .intra_attention = intra,
                          .token_inter_attention = {}};
  for (std::int64_t i = 0; i < num_tokens; ++i) stats.token_inter_attention.push_back(static_cast<float>(i));
  return stats;
}

/// Ten tokens behind chunks 1, 2 and 3: a = 2/(10*4) + 6/(10*10) + 2/(10*5) = 0.15 and b = 10/100 = 0.1.
ChunkContextStats three_preceding() {
  return stats_of(10, {{key(1), 4, 2.0}, {key(2), 10, 6.0}, {key(3), 5, 2.0}}, 10.0);
}

pikv::ChunkStatsLookup lookup_in(std::map<ChunkKey, ChunkContextStats> known) {
  return [known = std::move(known)](const ChunkKey& wanted) -> std::shared_ptr<const ChunkContextStats> {
    const auto found = known.find(wanted);
    return found == known.end() ? nullptr : std::make_shared<const ChunkContextStats>(found->second);
  };
}

pikv::Result<std::unique_ptr<pikv::RepairRun>> begin(const pikv::ChunkStatsLookup& lookup, double alpha,
                                                     const CompositionPlan& plan) {
  return pikv::make_cache_craft_policy(lookup, alpha).value()->begin({.plan = plan, .num_layers = 2});
}

Rows rows_of(const pikv::ChunkStatsLookup& lookup, double alpha, const CompositionPlan& plan) {
  const auto run = begin(lookup, alpha, plan);
  REQUIRE_MESSAGE(run.ok(), run.status().message());
  const std::optional<pikv::RepairPass> pass = (*run)->next();
  REQUIRE(pass.has_value());
  CHECK(pass->probes.empty());
  CHECK_FALSE((*run)->next().has_value());
  return pass->rows;
}

/// As the pieces of mixed_pieces() are named.
ChunkKey key_at_row(int row_begin) { return key(row_begin + 1); }

}  // namespace

TEST_CASE("cache-craft: how much a chunk depends on its context") {
  CHECK(pikv::chunk_context_impact(three_preceding()) == doctest::Approx(1 / (1 + std::exp(-1.5))));
  CHECK(pikv::chunk_context_impact(stats_of(10, {}, 10.0)) == 0.5);
  CHECK(pikv::chunk_context_impact(stats_of(10, {}, 0.0)) == 0.5);
  CHECK(pikv::chunk_context_impact(stats_of(10, {{key(1), 4, 0.0}}, 0.0)) == 0.5);
  CHECK(pikv::chunk_context_impact(stats_of(10, {{key(1), 4, 1.0}}, 0.0)) == 1.0);  // depends on nothing else
}

TEST_CASE("cache-craft: how much of the old context is there again") {
  const ChunkContextStats stats = three_preceding();
  const auto beta = [&stats](const std::vector<ChunkKey>& keys) { return pikv::prefix_overlap(stats, keys); };
  CHECK(beta({key(1), key(2), key(3)}) == doctest::Approx(1.0));
  CHECK(beta({key(3), key(9), key(1)}) == doctest::Approx(0.4));
  CHECK(beta({key(2)}) == doctest::Approx(0.6));
  CHECK(beta({key(9)}) == 0);
  CHECK(beta({}) == 0);

  const ChunkContextStats alone = stats_of(10, {}, 10.0);
  CHECK(pikv::prefix_overlap(alone, {}) == 1);
  CHECK(pikv::prefix_overlap(alone, std::vector{key(1)}) == 0);
  const ChunkContextStats indifferent = stats_of(10, {{key(1), 4, 0.0}}, 10.0);
  CHECK(pikv::prefix_overlap(indifferent, std::vector{key(2), key(1)}) == 1);
  CHECK(pikv::prefix_overlap(indifferent, std::vector{key(2)}) == 0);
}

TEST_CASE("cache-craft: in which order the old context is there again") {
  const ChunkContextStats stats = three_preceding();
  const auto gamma = [&stats](const std::vector<ChunkKey>& keys) { return pikv::prefix_disorder(stats, keys); };
  CHECK(gamma({key(1), key(2), key(3)}) == 0);
  CHECK(gamma({key(1), key(9), key(3), key(8), key(7)}) == 0);
  CHECK(gamma({key(3), key(2), key(1)}) == 1);
  CHECK(gamma({key(2), key(1), key(3)}) == doctest::Approx(1.0 / 3));
  CHECK(gamma({key(3), key(9), key(1)}) == 1);
  CHECK(gamma({key(2)}) == 0);
  CHECK(gamma({}) == 0);
  CHECK(pikv::adjusted_prefix_overlap(stats, std::vector{key(2), key(1), key(3)}) == doctest::Approx(2.0 / 3));
  CHECK(pikv::adjusted_prefix_overlap(stats, std::vector{key(3), key(1)}) == 0);
}

TEST_CASE("cache-craft: a chunk that stood there twice is matched twice") {
  const ChunkContextStats twice = stats_of(10, {{key(1), 4, 3.0}, {key(1), 4, 1.0}}, 10.0);
  CHECK(pikv::prefix_overlap(twice, std::vector{key(1)}) == doctest::Approx(0.75));
  CHECK(pikv::prefix_overlap(twice, std::vector{key(1), key(1), key(1)}) == 1);
  CHECK(pikv::prefix_disorder(twice, std::vector{key(1), key(1)}) == 0);
}

TEST_CASE("cache-craft: the share to recompute") {
  const ChunkContextStats stats = three_preceding();
  const double cci = pikv::chunk_context_impact(stats);
  CHECK(pikv::recompute_share(stats, std::vector{key(1), key(2), key(3)}, 1.0) == doctest::Approx(0.0));
  CHECK(pikv::recompute_share(stats, {}, 1.0) == doctest::Approx(cci));
  CHECK(pikv::recompute_share(stats, std::vector{key(2)}, 0.5) == doctest::Approx(0.5 * cci * 0.4));
  CHECK(pikv::recompute_share(stats, {}, 3.0) == 1);
  CHECK(pikv::recompute_share(stats, {}, 0.0) == 0);
}

TEST_CASE("cache-craft: the variant with least to recompute, of equals the first") {
  const std::vector<ChunkContextStats> variants{stats_of(10, {{key(1), 4, 2.0}}, 10.0),
                                                stats_of(10, {{key(2), 4, 2.0}}, 10.0),
                                                stats_of(10, {{key(2), 4, 2.0}}, 10.0)};
  CHECK(pikv::choose_variant(variants, std::vector{key(2)}, 1.0) == 1);
  CHECK(pikv::choose_variant(variants, std::vector{key(1)}, 1.0) == 0);
  CHECK(pikv::choose_variant(variants, std::vector{key(3)}, 1.0) == 0);
  CHECK(pikv::choose_variant(variants, std::vector{key(2)}, 0.0) == 0);
  CHECK_FALSE(pikv::choose_variant({}, {}, 1.0).has_value());
}

TEST_CASE("cache-craft: rows that paid most attention to the old context, rounded up in each chunk") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  // Encoded alone: the impact is one half, and so is the share for an alpha of 1.
  const std::map<ChunkKey, ChunkContextStats> alone{{key_at_row(4), stats_of(8, {}, 8.0)},
                                                    {key_at_row(12), stats_of(8, {}, 8.0)},
                                                    {key_at_row(20), stats_of(1, {}, 1.0)}};
  CHECK(rows_of(lookup_in(alone), 1.0, plan) == Rows{7, 8, 9, 16, 17, 18, 19, 20});
  CHECK(rows_of(lookup_in(alone), 0.5, plan) == Rows{8, 9, 18, 19, 20});  // 1.5 of 6, 2 of 8, 0.25 of 1
  CHECK(rows_of(lookup_in(alone), 0.6, plan) == Rows{8, 9, 17, 18, 19, 20});
  CHECK(rows_of(lookup_in(alone), 0.0, plan).empty());
  CHECK(rows_of(lookup_in(alone), 2.0, plan) == kMixedRows);
  CHECK(pikv::make_cache_craft_policy(lookup_in(alone), 1.0).value()->knows_rows_ahead());

  std::map<ChunkKey, ChunkContextStats> ties = alone;
  ties[key_at_row(12)].token_inter_attention.assign(8, 0.0F);
  ties[key_at_row(12)].token_inter_attention[5] = 1.0F;
  CHECK(rows_of(lookup_in(ties), 0.5, plan) == Rows{8, 9, 12, 17, 20});
}

TEST_CASE("cache-craft: a chunk behind what it was encoded behind is left alone, an unknown one computed whole") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const ChunkContextStats same =
      stats_of(8, {{key_at_row(0), 2, 1.0}, {key_at_row(2), 2, 1.0}, {key_at_row(4), 8, 1.0}}, 8.0);
  CHECK(rows_of(lookup_in({{key_at_row(12), same}}), 1.0, plan) == Rows{4, 5, 6, 7, 8, 9, 20});
  CHECK(rows_of(lookup_in({}), 1.0, plan) == kMixedRows);
  CHECK(rows_of(lookup_in({}), 1.0, plan_of({test_support::computed(0, 3)})).empty());
}

TEST_CASE("cache-craft: unsound statistics and arguments are refused") {
  const CompositionPlan plan = plan_of(mixed_pieces());
  const auto refusal = [&plan](ChunkContextStats stats) {
    const auto run = begin(lookup_in({{key_at_row(4), std::move(stats)}}), 1.0, plan);
    REQUIRE_FALSE(run.ok());
    CHECK(run.status().code() == pikv::ErrorCode::kInvalidArgument);
    const std::string message(run.status().message());
    CHECK(message.starts_with("cache-craft: chunk 0500"));
    return message.substr(message.find(" in row "));
  };
  const ChunkContextStats good = stats_of(8, {{key(1), 4, 1.0}}, 8.0);
  CHECK(pikv::validate(good).ok());
  const std::string begin_of_all = " in row 4: chunk context stats: ";
  CHECK(refusal(stats_of(7, {}, 8.0)) == begin_of_all + "num_tokens: 7 of a chunk of 8");
  CHECK(refusal(stats_of(0, {}, 8.0)) == begin_of_all + "num_tokens: is 0");
  CHECK(refusal(stats_of(8, {{key(1), 0, 1.0}}, 8.0)) == begin_of_all + "preceding[0].num_tokens: is 0");
  CHECK(refusal(stats_of(8, {{key(1), 4, 1.0}, {key(2), 4, -1.0}}, 8.0)) ==
        begin_of_all + "preceding[1].inter_attention: is -1.000000");
  CHECK(refusal(stats_of(8, {}, INFINITY)) == begin_of_all + "intra_attention: is inf");
  ChunkContextStats short_array = good;
  short_array.token_inter_attention.pop_back();
  CHECK(refusal(short_array) == begin_of_all + "token_inter_attention: has 7 elements for 8 tokens");
  ChunkContextStats not_a_number = good;
  not_a_number.token_inter_attention[3] = test_support::kNaN;
  CHECK(refusal(not_a_number) == begin_of_all + "token_inter_attention[3]: is nan");

  for (const double alpha : {-1.0, static_cast<double>(test_support::kNaN), HUGE_VAL}) {
    const auto policy = pikv::make_cache_craft_policy(lookup_in({}), alpha);
    REQUIRE_FALSE(policy.ok());
    CHECK(policy.status().message().find("cache-craft: alpha: ") == 0);
  }
  CHECK(pikv::make_cache_craft_policy(nullptr, 1.0).status().message() == "cache-craft: lookup: is empty");
  CHECK(pikv::make_cache_craft_policy(lookup_in({}), 0.5).value()->name() == "cache-craft:0.5");
}
