// What the bridge repairs, against full recomputation and against rows and passes worked out by hand.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "support/double_attention.hpp"
#include "support/reference_llama.hpp"
#include "support/repair_runs.hpp"

namespace {

using mini_engine::Pass;
using mini_engine::Prefill;
using mini_engine::Sequence;
using test_support::approximate_rows;
using test_support::best_rows;
using test_support::error_of;
using test_support::repaired_rows;
using test_support::RepairWorld;
using test_support::Rows;
using test_support::united;

constexpr double kExact = 1e-5;  // of fp32
constexpr int kChunkRows = 37 + 29 + 18;

std::vector<mini_engine::ModelConfig> configs() {
  return {test_support::repair_config(), test_support::scaled_repair_config()};
}

/// Lets rows of the sequence go at one layer.
struct LettingGo : mini_engine::PassObserver {
  LettingGo(int at_layer, Rows kept) : layer(at_layer), going_on(std::move(kept)) {}

  void on_projected(int at, const mini_engine::ProjectedRows& rows) override {
    if (at != layer) return;
    for (std::size_t i = 0; i < rows.rows.size(); ++i) {
      if (std::ranges::binary_search(going_on, rows.rows[i])) indices.push_back(static_cast<std::int32_t>(i));
    }
  }
  std::optional<Rows> rows_that_go_on(int at) override {
    if (at != layer) return std::nullopt;
    return indices;
  }

  int layer;
  Rows going_on;
  Rows indices{};
};

/// How far the values of each of the prompt's chunk rows at a layer lie from those of the chunk encoded alone.
std::vector<double> value_deviations(const RepairWorld& world, const pikv::Prompt& prompt, std::size_t layer) {
  const auto whole = test_support::reference_forward(world.file, prompt.tokens()).values[layer];
  std::vector<double> scores(prompt.tokens().size());
  for (const pikv::Segment& segment : prompt.segments()) {
    if (!segment.recipe) continue;
    const auto begin = static_cast<std::size_t>(segment.row_begin);
    const auto size = static_cast<std::size_t>(segment.row_end) - begin;
    const auto alone = test_support::reference_forward(world.file, prompt.tokens().subspan(begin, size)).values[layer];
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t d = 0; d < alone[i].size(); ++d) {
        scores[begin + i] += (whole[begin + i][d] - alone[i][d]) * (whole[begin + i][d] - alone[i][d]);
      }
    }
  }
  return scores;
}

/// Keeps the queries of every layer.
struct KeepingQueries : mini_engine::PassObserver {
  explicit KeepingQueries(std::int64_t elements) : num_elements(elements) {}
  void on_queries(int, const mini_engine::TurnedQueries& shown) override {
    rows.assign(shown.rows.begin(), shown.rows.end());
    std::vector<float>& packed = queries.emplace_back();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float* const row = static_cast<const float*>(shown.data) + static_cast<std::int64_t>(i) * shown.row_stride;
      packed.insert(packed.end(), row, row + num_elements);
    }
  }
  std::int64_t num_elements;
  Rows rows{};
  std::vector<std::vector<float>> queries{};  // [L][R*Q*D]
};

/// Of every row, what the question pays to it on average over heads and layers [first_layer, L), in a pass without
/// repair.
std::vector<double> question_attention(RepairWorld& world, const pikv::Prompt& prompt, int first_layer) {
  Sequence sequence(world.cache);
  const pikv::CompositionPlan plan = world.place(prompt, sequence);
  KeepingQueries observer(std::int64_t{world.config.num_heads} * world.config.head_dim);
  (void)world.pass(prompt, {plan.rows_to_compute().begin(), plan.rows_to_compute().end()}, sequence, &observer);
  const auto num_heads = static_cast<std::size_t>(world.config.num_heads);
  const auto head_dim = static_cast<std::size_t>(world.config.head_dim);
  const auto first_question_row = static_cast<std::int32_t>(prompt.tokens().size() - world.question.size());
  std::vector<double> scores(prompt.tokens().size());
  for (int layer = first_layer; layer < world.config.num_layers; ++layer) {
    const std::vector<float> keys = test_support::cached_rows(sequence, world.config, layer, true);
    const std::vector<float>& queries = observer.queries[static_cast<std::size_t>(layer)];
    for (std::size_t i = 0; i < observer.rows.size(); ++i) {
      if (observer.rows[i] < first_question_row) continue;
      for (std::size_t head = 0; head < num_heads; ++head) {
        const std::vector<double> weights = test_support::double_attention_weights(
            world.config, observer.rows[i], head, queries.data() + (i * num_heads + head) * head_dim, keys);
        for (std::size_t key = 0; key < weights.size(); ++key) scores[key] += weights[key];
      }
    }
  }
  return scores;
}

TEST_CASE("repairing all rows is full recomputation, from chunks encoded alone") {
  for (const mini_engine::ModelConfig& config : configs()) {
    CAPTURE(static_cast<int>(config.rope.scaling));
    RepairWorld world(config);
    for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{0, 1, 2}, {2, 0, 1}, {1, 1, 0}}) {
      const pikv::Prompt prompt = world.prompt(order);
      Sequence repaired(world.cache);
      const Prefill all = world.serve("all", prompt, repaired, RepairWorld::kChunksAlone);
      const std::vector<float> full = world.full(prompt);
      CHECK(error_of(all.logits, full) < kExact);
      CHECK(all.plan.stats().approximate_tokens == 0);
      Sequence plain(world.cache);
      CHECK(error_of(world.serve("none", prompt, plain, RepairWorld::kChunksAlone).logits, full) > 1e-2);

      Sequence computed(world.cache);
      pikv::Prompt fresh;
      fresh.add_fresh(prompt.tokens());
      (void)world.server.prefill(fresh, computed, RepairWorld::kNothing);
      for (int layer = 0; layer < config.num_layers; ++layer) {
        for (const bool of_keys : {true, false}) {
          CHECK(error_of(test_support::cached_rows(repaired, config, layer, of_keys),
                         test_support::cached_rows(computed, config, layer, of_keys)) < kExact);
        }
      }
    }
  }
}

TEST_CASE("blend of everything is repair of all rows") {
  for (const mini_engine::ModelConfig& config : configs()) {
    RepairWorld world(config);
    const Prefill blend = world.serve("blend:1");
    const Prefill all = world.serve("all");
    CHECK(error_of(blend.logits, all.logits) < kExact);
    CHECK(repaired_rows(blend.plan) == repaired_rows(all.plan));
    CHECK(blend.plan.repaired_rows().size() == kChunkRows);
    CHECK(blend.repair.row_layers == all.repair.row_layers);
  }
}

TEST_CASE("blend goes on with the rows whose values deviate most, and computes them as a pass by hand does") {
  for (const mini_engine::ModelConfig& config : configs()) {
    for (const int layer : {1, 2}) {
      CAPTURE(static_cast<int>(config.rope.scaling));
      CAPTURE(layer);
      RepairWorld world(config);
      const pikv::Prompt prompt = world.prompt();
      Sequence by_hand(world.cache);
      const pikv::CompositionPlan plan = world.place(prompt, by_hand);
      const Rows candidates = approximate_rows(plan);
      REQUIRE(candidates.size() == kChunkRows);
      const Rows chosen = best_rows(candidates, value_deviations(world, prompt, static_cast<std::size_t>(layer)), 25);

      const std::string spec = "blend:0.3,layer=" + std::to_string(layer);
      Sequence sequence(world.cache);
      const Prefill blend = world.serve(spec, prompt, sequence, RepairWorld::kChunksAlone);
      CHECK(repaired_rows(blend.plan) == chosen);

      LettingGo observer(layer, united(chosen, plan.rows_to_compute()));
      const std::vector<float> expected =
          world.pass(prompt, united(candidates, plan.rows_to_compute()), by_hand, &observer);
      CHECK(error_of(blend.logits, expected) < 1e-6);
      CHECK(error_of(blend.logits, world.serve("all").logits) > 1e-3);
      for (int l = 0; l < config.num_layers; ++l) {
        CHECK(error_of(test_support::cached_rows(sequence, config, l, false),
                       test_support::cached_rows(by_hand, config, l, false)) < 1e-6);
      }
    }
  }
}

TEST_CASE("rows that the question attends to most are those of attention in double precision") {
  for (const mini_engine::ModelConfig& config : configs()) {
    CAPTURE(static_cast<int>(config.rope.scaling));
    RepairWorld world(config);
    // Text between chunks is computed too, and attends to the first of them, but is not the question.
    pikv::Prompt prompt;
    prompt.add_fresh(world.system);
    prompt.add_chunk(world.chunks[0], pikv::ChunkRecipe::alone());
    prompt.add_fresh(test_support::random_tokens(9, config.vocab_size, 60));
    prompt.add_chunk(world.chunks[1], pikv::ChunkRecipe::alone());
    prompt.add_chunk(world.chunks[2], pikv::ChunkRecipe::alone());
    prompt.add_fresh(world.question);
    Sequence placed(world.cache);
    const pikv::CompositionPlan plan = world.place(prompt, placed);
    std::map<std::string, Rows> chosen;
    for (const std::string spec : {"prophet:0.25", "attention:0.25"}) {
      CAPTURE(spec);
      const int first_layer = spec == "attention:0.25" ? config.num_layers - 1 : 0;
      Sequence sequence(world.cache);
      const Prefill prefill = world.serve(spec, prompt, sequence, RepairWorld::kChunksAlone);
      chosen[spec] = best_rows(approximate_rows(plan), question_attention(world, prompt, first_layer), 21);
      CHECK(repaired_rows(prefill.plan) == chosen[spec]);

      Sequence by_hand(world.cache);
      (void)world.place(prompt, by_hand);
      const std::vector<float> expected =
          world.pass(prompt, united(chosen[spec], plan.rows_to_compute()), by_hand, nullptr);
      CHECK(error_of(prefill.logits, expected) < 1e-6);
    }
    CHECK(chosen["prophet:0.25"] != chosen["attention:0.25"]);
  }
}

TEST_CASE("deviations are weighted by what the question attends to") {
  RepairWorld world;
  const pikv::Prompt prompt = world.prompt();
  Sequence placed(world.cache);
  const Rows candidates = approximate_rows(world.place(prompt, placed));
  std::vector<double> scores = value_deviations(world, prompt, 1);
  const Rows unweighted = best_rows(candidates, scores, 16);
  const std::vector<double> attention = question_attention(world, prompt, 0);
  for (std::size_t row = 0; row < scores.size(); ++row) scores[row] *= attention[row];
  const Rows chosen = best_rows(candidates, scores, 16);
  CHECK(chosen != unweighted);
  CHECK(repaired_rows(world.serve("attended-deviation:0.2").plan) == chosen);
}

}  // namespace
