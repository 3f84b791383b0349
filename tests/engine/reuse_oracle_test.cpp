// What is exact about reuse, checked from end to end on the engine: capture, store, compose, re-anchor, compute.
// Each statement runs on models of random weights, and on SmolLM2 when PIKV_SMOLLM2 names its GGUF file.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "rag_demo/distribution_metrics.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"

namespace {

using mini_engine::ChunkServer;
using mini_engine::CpuModel;
using mini_engine::Model;
using mini_engine::PagedCache;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;
using Tokens = std::vector<TokenId>;

constexpr int kPageSize = 16;

mini_engine::ModelConfig oracle_config(int num_layers) {
  mini_engine::ModelConfig config = test_support::small_config();
  config.num_layers = num_layers;
  return config;
}

/// SmolLM2, loaded once; null with a message when it is not there.
Model* smollm2() {
  static const std::unique_ptr<CpuModel> model = []() -> std::unique_ptr<CpuModel> {
    const char* path = std::getenv("PIKV_SMOLLM2");
    if (path == nullptr) return nullptr;
    return std::make_unique<CpuModel>(*mini_engine::open_model(path), mini_engine::ModelOptions{});
  }();
  if (model == nullptr) MESSAGE("skipped on SmolLM2: PIKV_SMOLLM2 is not set");
  return model.get();
}

/// Three documents of uneven length and a question.
struct Material {
  std::vector<Tokens> documents;
  Tokens question;
};

Material make_material(const mini_engine::ModelConfig& config, unsigned seed) {
  Material material;
  for (const int length : {37, 64, 50}) {
    material.documents.push_back(test_support::random_tokens(length, config.vocab_size, seed++));
  }
  material.question = test_support::random_tokens(11, config.vocab_size, seed);
  return material;
}

pikv::Prompt chunk_prompt(const Material& material, const pikv::ChunkRecipe& recipe) {
  pikv::Prompt prompt;
  for (const Tokens& document : material.documents) prompt.add_chunk(document, recipe);
  prompt.add_fresh(material.question);
  return prompt;
}

pikv::Prompt fresh_prompt(const Material& material) {
  pikv::Prompt prompt;
  for (const Tokens& document : material.documents) prompt.add_fresh(document);
  prompt.add_fresh(material.question);
  return prompt;
}

double relative(const std::vector<float>& got, const std::vector<float>& expected) {
  return test_support::relative_error(std::span<const float>(got), std::span<const float>(expected));
}

struct Bench {
  Bench(Model& model_, Precision precision, pikv::DType store_dtype)
      : model(model_),
        cache(model.config(), precision, 64, kPageSize),
        server(model, cache, {}, {.store_dtype = store_dtype, .secret = std::vector<std::byte>(16)}) {}

  std::vector<float> full(const Material& material) {
    Sequence sequence(cache);
    return server.prefill(fresh_prompt(material), sequence, {false, false, false}).logits;
  }

  std::vector<float> reused(const Material& material, pikv::PlanStats* stats = nullptr) {
    for (const Tokens& document : material.documents) server.encode_chunk(document, {});
    Sequence sequence(cache);
    const auto prefill =
        server.prefill(chunk_prompt(material, pikv::ChunkRecipe::alone()), sequence, {false, true, false});
    if (stats != nullptr) *stats = prefill.plan.stats();
    return prefill.logits;
  }

  /// Reuse by hand: chunks placed by the backend with any table and any shift of position, then the question computed.
  std::vector<float> placed_by_hand(const Material& material, const pikv::RopeTable& table,
                                    const std::function<pikv::Position(std::int64_t)>& anchor) {
    const std::unique_ptr<pikv::Backend> backend = pikv::make_cpu_backend();
    Sequence sequence(cache);
    std::int64_t row = 0;
    for (const Tokens& document : material.documents) {
      server.encode_chunk(document, {});
      const auto count = static_cast<std::int64_t>(document.size());
      sequence.grow(static_cast<int>(count));
      const pikv::Lookup found = server.store().lookup(server.chunk_key(document, {}), document);
      REQUIRE(found.state == pikv::LookupState::kHit);
      const pikv::KvRun run{.source = found.chunk->view(),
                            .source_slots = pikv::SlotMap::consecutive(0, count),
                            .target_slots = mini_engine::row_slots(sequence).slice(row, count),
                            .positions = pikv::PositionMap::consecutive(anchor(row))};
      REQUIRE(backend
                  ->reanchor_async({.geometry = server.store().geometry(),
                                    .runs = {&run, 1},
                                    .target = mini_engine::cache_view(cache),
                                    .rope = table.view(),
                                    .layer_begin = 0,
                                    .layer_end = model.config().num_layers},
                                   pikv::StreamRef::legacy_default())
                  .ok());
      row += count;
    }
    sequence.grow(static_cast<int>(material.question.size()));
    const std::vector<std::int32_t> rows = test_support::range(static_cast<int>(row), sequence.size());
    const auto last = static_cast<std::int32_t>(rows.size() - 1);
    return model.forward(
        {.tokens = material.question, .rows = rows, .logit_rows = {&last, 1}, .documents = {}, .observer = nullptr},
        sequence);
  }

  Model& model;
  PagedCache cache;
  ChunkServer server;
};

/// The forward pass in which every document sees itself alone and the question sees all.
std::vector<float> block_diagonal(Bench& bench, const Material& material) {
  Tokens tokens;
  std::vector<std::int32_t> documents;
  for (std::size_t i = 0; i < material.documents.size(); ++i) {
    tokens.insert(tokens.end(), material.documents[i].begin(), material.documents[i].end());
    documents.resize(tokens.size(), static_cast<std::int32_t>(i));
  }
  tokens.insert(tokens.end(), material.question.begin(), material.question.end());
  documents.resize(tokens.size(), Pass::kSeesAll);
  Sequence sequence(bench.cache);
  sequence.grow(static_cast<int>(tokens.size()));
  const std::vector<std::int32_t> rows = test_support::range(0, sequence.size());
  const auto last = static_cast<std::int32_t>(rows.size() - 1);
  return bench.model.forward(
      {.tokens = tokens, .rows = rows, .logit_rows = {&last, 1}, .documents = documents, .observer = nullptr},
      sequence);
}

void check_block_diagonal(Model& model) {
  Bench bench(model, Precision::kFloat32, pikv::DType::kFloat32);
  const Material material = make_material(model.config(), 11);
  pikv::PlanStats stats;
  const std::vector<float> reused = bench.reused(material, &stats);
  CHECK(stats.fresh_tokens == static_cast<std::int64_t>(material.question.size()));
  CHECK(stats.exact_segment_tokens == 37);  // the first document stands where it was encoded
  CHECK(stats.approximate_tokens == 64 + 50);
  CHECK(relative(reused, block_diagonal(bench, material)) < 1e-4);
  // Control: without turning the keys it is another computation.
  const pikv::RopeTable table = mini_engine::rope_table(model);
  const auto local = [](std::int64_t) { return pikv::Position{0}; };
  CHECK(relative(bench.placed_by_hand(material, table, local), block_diagonal(bench, material)) > 1e-3);
}

void check_exact_prefix(Model& model) {
  Bench bench(model, Precision::kFloat32, pikv::DType::kFloat32);
  const Material material = make_material(model.config(), 21);
  const std::vector<float> full = bench.full(material);
  {
    Sequence first(bench.cache);
    (void)bench.server.prefill(fresh_prompt(material), first, {true, false, true});
  }
  Sequence second(bench.cache);
  const auto prefill = bench.server.prefill(fresh_prompt(material), second, {true, false, true});
  const std::int64_t rows = prefill.plan.num_rows();
  CHECK(prefill.plan.stats().exact_prefix_tokens == (rows - 1) / 16 * 16);
  CHECK(prefill.plan.exact_rows() == rows);
  CHECK(rag_demo::kl_divergence(full, prefill.logits) <= 1e-9);
}

/// The bytes of one row's K and V in one layer of the cache, all heads.
std::vector<std::byte> row_bytes(PagedCache& cache, const mini_engine::ModelConfig& config, int layer,
                                 mini_engine::Slot slot) {
  const PagedCache::Strides& s = cache.strides();
  const std::size_t element = cache.precision() == Precision::kFloat32 ? 4 : 2;
  std::vector<std::byte> bytes;
  for (int head = 0; head < config.num_kv_heads; ++head) {
    const std::int64_t key =
        layer * s.layer + slot / cache.page_size() * s.page + slot % cache.page_size() * s.token + head * s.head;
    for (const std::int64_t offset : {key, key + s.value_offset}) {
      const std::byte* const begin = cache.data() + offset * static_cast<std::int64_t>(element);
      bytes.insert(bytes.end(), begin, begin + static_cast<std::size_t>(config.head_dim) * element);
    }
  }
  return bytes;
}

/// Takes the semantic keys and values of a full pass and puts them back through store and composer; every row must be
/// the engine's own, bit for bit, in every layer and at every position.
void check_bitwise(Model& model, Precision precision, pikv::DType store_dtype) {
  Bench bench(model, precision, store_dtype);
  const Material material = make_material(model.config(), 31);
  Sequence engine(bench.cache);
  (void)bench.server.prefill(fresh_prompt(material), engine, {true, false, true});
  Sequence composed(bench.cache);
  const auto prefill = bench.server.prefill(fresh_prompt(material), composed, {true, false, false});
  const std::int64_t cached = prefill.plan.stats().exact_prefix_tokens;
  REQUIRE(cached >= 128);
  int differing = 0;
  for (int layer = 0; layer < model.config().num_layers; ++layer) {
    for (std::int64_t row = 0; row < cached; ++row) {
      const auto index = static_cast<std::size_t>(row);
      differing += row_bytes(bench.cache, model.config(), layer, engine.slots()[index]) !=
                   row_bytes(bench.cache, model.config(), layer, composed.slots()[index]);
    }
  }
  CHECK(differing == 0);
}

}  // namespace

TEST_CASE("re-anchored chunks equal a forward pass with a block-diagonal document mask") {
  for (const int num_layers : {1, 2, 5}) {
    CAPTURE(num_layers);
    const test_support::MemoryModel file(oracle_config(num_layers), 3);
    CpuModel model(file, {});
    check_block_diagonal(model);
  }
  if (Model* const model = smollm2()) check_block_diagonal(*model);
}

TEST_CASE("in a model of one layer reuse equals full recomputation, and every mistake shows") {
  const test_support::MemoryModel file(oracle_config(1), 4);
  CpuModel model(file, {});
  Bench bench(model, Precision::kFloat32, pikv::DType::kFloat32);
  const Material material = make_material(model.config(), 41);
  const std::vector<float> full = bench.full(material);
  const double exact = relative(bench.reused(material), full);
  CHECK(exact < 1e-5);

  const pikv::RopeTable table = mini_engine::rope_table(model);
  const auto in_place = [](std::int64_t row) { return static_cast<pikv::Position>(row); };
  CHECK(relative(bench.placed_by_hand(material, table, in_place), full) < 1e-5);

  const auto local = [](std::int64_t) { return pikv::Position{0}; };
  const auto off_by_one = [](std::int64_t row) { return static_cast<pikv::Position>(row + 1); };
  const pikv::RopeTable wrong_pairing = pikv::RopeTable::adopt(model.rotary().cos, model.rotary().sin,
                                                               model.config().head_dim, pikv::Pairing::kInterleaved)
                                            .value();
  for (const double wrong : {relative(bench.placed_by_hand(material, table, local), full),
                             relative(bench.placed_by_hand(material, table, off_by_one), full),
                             relative(bench.placed_by_hand(material, wrong_pairing, in_place), full)}) {
    CHECK(wrong > 1e-3);
    CHECK(wrong > 1000 * exact);
  }
}

TEST_CASE("an exact prefix changes nothing") {
  for (const int num_layers : {1, 4}) {
    const test_support::MemoryModel file(oracle_config(num_layers), 5);
    CpuModel model(file, {});
    check_exact_prefix(model);
  }
  if (Model* const model = smollm2()) check_exact_prefix(*model);
}

TEST_CASE("a stored key re-anchored is bit for bit what the engine wrote") {
  const test_support::MemoryModel file(oracle_config(3), 6);
  CpuModel model(file, {});
  SUBCASE("bf16 cache, bf16 store") { check_bitwise(model, Precision::kBFloat16, pikv::DType::kBFloat16); }
  SUBCASE("fp32 cache, fp32 store") { check_bitwise(model, Precision::kFloat32, pikv::DType::kFloat32); }
  SUBCASE("bf16 cache, fp32 store") { check_bitwise(model, Precision::kBFloat16, pikv::DType::kFloat32); }
  SUBCASE("SmolLM2, bf16") {
    if (Model* const real = smollm2()) check_bitwise(*real, Precision::kBFloat16, pikv::DType::kBFloat16);
  }
}

TEST_CASE("the library's own table is the engine's") {
  const auto check = [](const Model& model) {
    const mini_engine::RotaryTable& engine = model.rotary();
    const int half = model.config().head_dim / 2;
    const pikv::RopeTable built =
        pikv::RopeTable::build(mini_engine::rope_config(model.config()), model.config().head_dim, engine.num_positions)
            .value();
    const pikv::RopeTable adopted = mini_engine::rope_table(model);
    int differing = 0;
    for (int position = 0; position < engine.num_positions; ++position) {
      const std::size_t begin = static_cast<std::size_t>(position) * static_cast<std::size_t>(half);
      for (const pikv::RopeTable* table : {&built, &adopted}) {
        differing +=
            !std::equal(engine.cos.begin() + static_cast<std::ptrdiff_t>(begin),
                        engine.cos.begin() + static_cast<std::ptrdiff_t>(begin) + half, table->view().cos(position));
        differing +=
            !std::equal(engine.sin.begin() + static_cast<std::ptrdiff_t>(begin),
                        engine.sin.begin() + static_cast<std::ptrdiff_t>(begin) + half, table->view().sin(position));
      }
    }
    CHECK(differing == 0);
  };
  mini_engine::ModelConfig config = oracle_config(1);
  for (const mini_engine::RopeScaling scaling :
       {mini_engine::RopeScaling::kNone, mini_engine::RopeScaling::kLinear, mini_engine::RopeScaling::kLlama3}) {
    config.rope.scaling = scaling;
    config.rope.factor = scaling == mini_engine::RopeScaling::kNone ? 1.0 : 8.0;
    config.rope.original_max_positions = 64;
    const test_support::MemoryModel file(config, 7);
    check(CpuModel(file, {}));
  }
  if (Model* const model = smollm2()) check(*model);
}

TEST_CASE("chunks encoded behind the prompt's own beginning are exact right behind it") {
  const test_support::MemoryModel file(oracle_config(3), 8);
  CpuModel model(file, {});
  Bench bench(model, Precision::kFloat32, pikv::DType::kFloat32);
  const Tokens prefix = test_support::random_tokens(23, model.config().vocab_size, 50);
  const Tokens document = test_support::random_tokens(45, model.config().vocab_size, 51);
  const Tokens question = test_support::random_tokens(9, model.config().vocab_size, 52);
  CHECK(bench.server.encode_chunk(document, prefix));
  CHECK_FALSE(bench.server.encode_chunk(document, prefix));

  pikv::Prompt fresh;
  for (const Tokens* part : {&prefix, &document, &question}) fresh.add_fresh(*part);
  Sequence full_sequence(bench.cache);
  const auto full = bench.server.prefill(fresh, full_sequence, {false, false, false});

  pikv::Prompt prompt;
  prompt.add_fresh(prefix);
  prompt.add_chunk(document, bench.server.recipe(prefix));
  prompt.add_fresh(question);
  Sequence sequence(bench.cache);
  const auto reused = bench.server.prefill(prompt, sequence, {true, true, false});
  CHECK(reused.plan.stats().exact_prefix_tokens == 16);  // encode_chunk() stored the prefix's whole blocks
  CHECK(reused.plan.stats().exact_segment_tokens == 45);
  CHECK(reused.plan.stats().approximate_tokens == 0);
  CHECK(rag_demo::kl_divergence(full.logits, reused.logits) <= 1e-9);
}
