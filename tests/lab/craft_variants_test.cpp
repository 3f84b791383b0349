// Variants of passages, what is measured of them, and which one a prompt reuses.
#include "lab/run/craft_variants.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lab/prompt_runs.hpp"
#include "lab/query_capture.hpp"
#include "lab/run/case_prompts.hpp"
#include "lab/run/case_runner.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "support/double_attention.hpp"

namespace {

using lab::Case;
using lab::CaseFile;
using lab::CraftVariants;
using mini_engine::TokenId;
using Tokens = std::vector<TokenId>;
using Order = std::vector<std::size_t>;

lab::CasePassage passage(const std::string& id, int num_tokens, unsigned seed) {
  return {.id = id, .tokens = test_support::random_tokens(num_tokens, 101, seed)};
}

/// Three passages behind a system prompt. No question holds what another does.
Case three_passages(const std::string& id, const Order& served, const Order& earlier) {
  return {.id = id,
          .cluster = id,
          .question_text = id,
          .system = test_support::random_tokens(9, 101, 1),
          .passages = {passage("a", 21, 2), passage("b", 17, 3), passage("c", 30, 4)},
          .question = test_support::random_tokens(7, 101, 5),
          .served = served,
          .earlier = earlier,
          .answers = {},
          .answer_tokens = {}};
}

CaseFile file_of(std::vector<Case> cases) {
  return {.header = {.set = "small", .tokenizer_fingerprint = "-", .vocab_size = 101, .seed = 1, .top_k = 3},
          .cases = std::move(cases)};
}

struct World {
  World()
      : engine(mini_engine::make_engine(test_support::small_config(), {.num_threads = 2, .seed = 7})),
        cache(engine->make_cache(60, 16)),
        server(engine->model(), cache, {}, {.capacity_bytes = 64 << 20, .device = {}}) {}

  /// In full.
  std::vector<float> computed(const Tokens& tokens) {
    mini_engine::Sequence sequence(cache);
    sequence.grow(static_cast<int>(tokens.size()));
    std::vector<float> all = test_support::run_rows(engine->model(), sequence, tokens, 0, sequence.size());
    return {all.end() - 101, all.end()};
  }
  mini_engine::Prefill serve(const lab::CraftPrompt& of) {
    mini_engine::Sequence sequence(cache);
    return server.prefill(of.prompt, sequence,
                          {.use_exact_prefix = false, .store_exact_prefix = false, .repair = of.repair.get()});
  }

  std::unique_ptr<mini_engine::Engine> engine;
  mini_engine::PagedCache cache;
  mini_engine::ChunkServer server;
};

bool are_equal(const std::vector<float>& a, const std::vector<float>& b) {
  return test_support::relative_error(std::span<const float>(a), std::span<const float>(b)) < 1e-5;
}

/// The weight that each row gives each segment, mean over heads and layers, [rows][segments], by an oracle's attention
/// over values that say which segment a row is of.
std::vector<double> segment_weights(World& world, const Tokens& tokens, const std::vector<int>& segments,
                                    std::size_t num_segments) {
  const mini_engine::ModelConfig config = test_support::small_config();
  const std::vector<std::int32_t> rows = test_support::range(0, static_cast<int>(tokens.size()));
  lab::QueryCapture queries(config, mini_engine::CacheMemory::kHost, rows);
  mini_engine::Sequence sequence(world.cache);
  sequence.grow(static_cast<int>(tokens.size()));
  (void)test_support::run_rows(world.engine->model(), sequence, tokens, 0, sequence.size(), {}, &queries);

  std::vector<double> weights(tokens.size() * num_segments);
  const auto kv_size = static_cast<std::size_t>(config.num_kv_heads * config.head_dim);
  const auto query_size = static_cast<std::size_t>(config.num_heads * config.head_dim);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    std::vector<float> keys, values(tokens.size() * kv_size);
    for (const std::int32_t row : rows) {
      test_support::with_row(sequence, layer, row,
                             [&](const float* key, const float*) { keys.insert(keys.end(), key, key + kv_size); });
      for (int head = 0; head < config.num_kv_heads; ++head) {
        values[static_cast<std::size_t>(row) * kv_size + static_cast<std::size_t>(head * config.head_dim) +
               static_cast<std::size_t>(segments[static_cast<std::size_t>(row)])] = 1;
      }
    }
    const std::vector<float> out =
        test_support::double_attention(config, rows, queries.layer(layer).elements, keys, values);
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      for (std::size_t head = 0; head < static_cast<std::size_t>(config.num_heads); ++head) {
        for (std::size_t segment = 0; segment < num_segments; ++segment) {
          weights[row * num_segments + segment] +=
              double{out[row * query_size + head * static_cast<std::size_t>(config.head_dim) + segment]} /
              (config.num_heads * config.num_layers);
        }
      }
    }
  }
  return weights;
}

TEST_CASE("statistics are sums of attention in double precision") {
  World world;
  const Case one = three_passages("q", {0, 1, 2}, {2, 0, 1});
  std::vector<lab::NamedPassage> passages;
  Tokens tokens = one.system;
  std::vector<int> segments(one.system.size(), 0);
  for (const std::size_t index : one.earlier) {
    const Tokens& text = one.passages[index].tokens;
    passages.push_back({.key = world.server.chunk_key(text, {}), .tokens = text});
    tokens.insert(tokens.end(), text.begin(), text.end());
    segments.insert(segments.end(), text.size(), static_cast<int>(passages.size()));
  }
  lab::ContextStatsMeter meter(world.engine->model(), world.cache, {});
  const std::vector<pikv::ChunkContextStats> measured = meter.measure(one.system, passages);
  const std::vector<double> weights = segment_weights(world, tokens, segments, 4);
  REQUIRE(measured.size() == 3);
  std::size_t row = one.system.size();
  for (std::size_t i = 0; i < 3; ++i) {
    const pikv::ChunkContextStats& stats = measured[i];
    CHECK(pikv::validate(stats).ok());
    REQUIRE(stats.num_tokens == static_cast<std::int64_t>(passages[i].tokens.size()));
    REQUIRE(stats.preceding.size() == i);
    double intra = 0;
    std::vector<double> inter(i);
    for (std::size_t t = 0; t < passages[i].tokens.size(); ++t, ++row) {
      const std::span<const double> of_row = std::span(weights).subspan(row * 4 + 1, 3);
      for (std::size_t j = 0; j < i; ++j) inter[j] += of_row[j];
      intra += of_row[i];
      CHECK(double{stats.token_inter_attention[t]} ==
            doctest::Approx(std::accumulate(of_row.begin(), of_row.begin() + static_cast<std::ptrdiff_t>(i), 0.0))
                .epsilon(1e-5));
    }
    CHECK(stats.intra_attention == doctest::Approx(intra).epsilon(1e-5));
    for (std::size_t j = 0; j < i; ++j) {
      CHECK(stats.preceding[j].key == passages[j].key);
      CHECK(stats.preceding[j].num_tokens == static_cast<std::int64_t>(passages[j].tokens.size()));
      CHECK(stats.preceding[j].inter_attention == doctest::Approx(inter[j]).epsilon(1e-5));
    }
  }
  CHECK(meter.measure(one.system, {}).empty());
}

TEST_CASE("behind the same passages again nothing is recomputed, and everything is as if it were") {
  World world;
  const CaseFile file = file_of({three_passages("q", {2, 0, 1}, {2, 0, 1})});
  CraftVariants variants(*world.engine, world.cache, world.server, file);
  const mini_engine::Prefill done = world.serve(variants.prepare(file.cases[0], 4));
  CHECK(done.repair.row_layers == 0);
  CHECK(done.plan.rows_to_compute().size() == file.cases[0].question.size());
  CHECK(are_equal(done.logits, world.computed(lab::tokens_of(file.cases[0], file.cases[0].served))));
}

/// Of statistics that say so, the rows [first, first + T) of a share that paid most attention to others.
std::vector<std::int32_t> most_dependent(const pikv::ChunkContextStats& stats, double share, std::int32_t first) {
  std::vector<std::int32_t> rows = test_support::range(0, static_cast<int>(stats.num_tokens));
  std::stable_sort(rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) {
    return stats.token_inter_attention[static_cast<std::size_t>(a)] >
           stats.token_inter_attention[static_cast<std::size_t>(b)];
  });
  rows.resize(static_cast<std::size_t>(std::ceil(share * static_cast<double>(stats.num_tokens))));
  for (std::int32_t& row : rows) row += first;
  return rows;
}

TEST_CASE("of each passage the share is recomputed that it lost, and that is what a run costs") {
  World world;
  // Backwards is as served, so that every passage has one variant: b and c before a, c before b, c alone.
  const CaseFile file = file_of({three_passages("q", {0, 1, 2}, {2, 1, 0})});
  const Case& one = file.cases[0];
  std::vector<lab::NamedPassage> passages;
  for (const std::size_t index : one.earlier) {
    passages.push_back(
        {.key = world.server.chunk_key(one.passages[index].tokens, {}), .tokens = one.passages[index].tokens});
  }
  lab::ContextStatsMeter meter(world.engine->model(), world.cache, {});
  const std::vector<pikv::ChunkContextStats> stats = meter.measure(one.system, passages);
  const double alpha = 0.6;
  std::vector<std::int32_t> expected = most_dependent(stats[2], alpha * pikv::chunk_context_impact(stats[2]), 9);
  const auto of_b = most_dependent(stats[1], alpha * pikv::chunk_context_impact(stats[1]), 9 + 21);
  const auto of_c = most_dependent(stats[0], alpha * 0.5, 9 + 21 + 17);
  expected.insert(expected.end(), of_b.begin(), of_b.end());
  expected.insert(expected.end(), of_c.begin(), of_c.end());
  std::sort(expected.begin(), expected.end());

  CraftVariants variants(*world.engine, world.cache, world.server, file);
  const lab::CraftPrompt prepared = variants.prepare(one, alpha);
  mini_engine::Sequence sequence(world.cache);
  const auto plan = world.server.prefill(prepared.prompt, sequence, {.use_exact_prefix = false}).plan;
  CHECK(mini_engine::rows_known_ahead(*prepared.repair, plan, 3) == expected);

  lab::CaseRunner runner(*world.engine, {}, file, {.num_forced = 4, .store_bytes = 64 << 20});
  runner.begin(one);
  const lab::ArmResult cost = runner.run(lab::parse_arm("cache-craft:0.6"));
  CHECK(cost.rows == static_cast<double>(expected.size()));
  CHECK(cost.passes == 1);
  CHECK(cost.approx_rows == 21 + 17 + 30);
  CHECK(cost.prompt_rows == 9 + 21 + 17 + 30 + 7);
  CHECK(*std::max_element(cost.kl.begin(), cost.kl.end()) > 1e-9);
  const lab::ArmResult whole = runner.run(lab::parse_arm("cache-craft:100"));
  CHECK(whole.rows == 21 + 17 + 30);
  CHECK(*std::max_element(whole.kl.begin(), whole.kl.end()) < 1e-9);
  CHECK(runner.run(lab::parse_arm("cache-craft:0")).rows == 0);
}

TEST_CASE("the variant with the right passages before it wins, once some case has met it") {
  World world;
  const Case met = three_passages("met", {1, 2, 0}, {0, 1, 2});
  const Case asked = three_passages("asked", {0, 1, 2}, {2, 0, 1});
  for (const bool is_before : {true, false}) {
    const CaseFile file = is_before ? file_of({met, asked}) : file_of({asked, met});
    CraftVariants variants(*world.engine, world.cache, world.server, file);
    const mini_engine::Prefill done = world.serve(variants.prepare(file.cases[is_before ? 1 : 0], 1));
    CHECK((done.repair.row_layers == 0) == is_before);
    CHECK((done.plan.stats().exact_segment_tokens == 9 + 21 + 17 + 30) == is_before);
  }
  // Where a stood first is the fifth that is met of it, and not kept.
  const CaseFile file = file_of({three_passages("1", {0, 1, 2}, {1, 0, 2}), three_passages("2", {0, 2, 1}, {1, 2, 0}),
                                 three_passages("3", {0, 1, 2}, {2, 1, 0}), three_passages("4", {0, 2, 1}, {0, 1, 2})});
  CraftVariants variants(*world.engine, world.cache, world.server, file);
  const mini_engine::Prefill done = world.serve(variants.prepare(file.cases[3], 1));
  CHECK(done.plan.stats().exact_segment_tokens == 9);
  CHECK(done.repair.row_layers > 0);
}

TEST_CASE("a passage that stood before is known again whichever variant of it stands there now") {
  World world;
  // c is exact; a is reused from behind c and b, b from behind a, which stands before it again.
  const CaseFile file = file_of({three_passages("q", {2, 0, 1}, {0, 1, 2})});
  const Case& one = file.cases[0];
  CraftVariants variants(*world.engine, world.cache, world.server, file);
  const lab::CraftPrompt prepared = variants.prepare(one, 1);
  const auto recipe_of_a = prepared.prompt.segments()[2].recipe;
  Tokens behind = one.system;
  for (const std::size_t index : {2U, 1U}) {
    behind.insert(behind.end(), one.passages[index].tokens.begin(), one.passages[index].tokens.end());
  }
  REQUIRE(recipe_of_a == world.server.recipe(behind));
  const mini_engine::Prefill done = world.serve(prepared);
  const pikv::PlanStats& stats = done.plan.stats();
  CHECK(stats.exact_segment_tokens == 9 + 30);
  CHECK(stats.approximate_tokens + stats.repaired_tokens == 21 + 17);
  CHECK(stats.repaired_tokens > 0);
  const std::span<const std::int32_t> computed = done.plan.rows_to_compute();
  const std::int32_t first_of_b = 9 + 30 + 21;
  CHECK(std::none_of(computed.begin(), computed.end(),
                     [&](std::int32_t row) { return row >= first_of_b && row < first_of_b + 17; }));
}

TEST_CASE("cases of another file, and arms that are none, are refused") {
  World world;
  const CaseFile file = file_of({three_passages("q", {0, 1, 2}, {2, 0, 1})});
  CraftVariants variants(*world.engine, world.cache, world.server, file);
  CHECK_THROWS_WITH_AS((void)variants.prepare(three_passages("r", {0, 1, 2}, {2, 0, 1}), 1),
                       "cache-craft: case 'r' is not of the file", mini_engine::Error);
  const lab::ArmSpec arm = lab::parse_arm("cache-craft:0.5");
  CHECK(arm.kind == lab::ArmSpec::Kind::kCacheCraft);
  CHECK(arm.group == "repair");
  CHECK(arm.craft_alpha == 0.5);
  for (const char* const name : {"cache-craft:", "cache-craft:-1", "cache-craft:x", "cache-craft:1x", "cache-craft:inf",
                                 "cache-craft:nan", "cache-craft:1e999"}) {
    CHECK_THROWS_AS((void)lab::parse_arm(name), mini_engine::Error);
  }
  CHECK_THROWS_AS((void)lab::parse_arm("cache-craft"), mini_engine::Error);
}

}  // namespace
