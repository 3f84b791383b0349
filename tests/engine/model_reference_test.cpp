// The engine's forward pass against the double-precision reference.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "mini_engine/bfloat16.hpp"
#include "mini_engine/cache_rows.hpp"
#include "mini_engine/cpu_model.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"
#include "support/reference_llama.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;
using test_support::MemoryModel;
using test_support::ReferenceOptions;
using test_support::ReferenceResult;
using test_support::RopeRows;

constexpr double kFloatBound = 5e-6;
// A value that lies at a tie may be rounded the other way in fp32 than in double; each costs up to 2^-9 of itself.
constexpr double kBFloatBound = 2e-3;

struct Shape {
  const char* name;
  int num_heads, num_kv_heads, head_dim, hidden_size, ffn_size;
  bool tied;
  RopeRows rope_rows;
};

const Shape kShapes[] = {
    {"one query head per KV head", 4, 4, 16, 64, 96, false, RopeRows::kHalfSplit},
    {"three query heads per KV head", 6, 2, 16, 48, 80, false, RopeRows::kHalfSplit},
    {"one KV head for all", 5, 1, 32, 40, 72, true, RopeRows::kHalfSplit},
    {"sizes that fill no vector", 3, 3, 10, 23, 37, true, RopeRows::kHalfSplit},
    {"head size 2", 4, 2, 2, 17, 19, false, RopeRows::kHalfSplit},
    {"interleaved query and key rows", 6, 2, 16, 48, 80, false, RopeRows::kInterleaved},
};

ModelConfig config_of(const Shape& shape) {
  ModelConfig config = test_support::small_config();
  config.num_heads = shape.num_heads;
  config.num_kv_heads = shape.num_kv_heads;
  config.head_dim = shape.head_dim;
  config.hidden_size = shape.hidden_size;
  config.ffn_size = shape.ffn_size;
  config.tied_embeddings = shape.tied;
  return config;
}

// Largest relative error of any row's logits.
double worst_row(const std::vector<float>& logits, const ReferenceResult& reference) {
  const std::size_t vocab_size = reference.logits[0].size();
  REQUIRE(logits.size() == reference.logits.size() * vocab_size);
  double worst = 0.0;
  for (std::size_t row = 0; row < reference.logits.size(); ++row) {
    const double error =
        test_support::relative_error(std::span<const float>(logits).subspan(row * vocab_size, vocab_size),
                                     std::span<const double>(reference.logits[row]));
    REQUIRE(std::isfinite(error));
    worst = std::max(worst, error);
  }
  return worst;
}

// What the observer was shown, [L][R*H*D].
struct Recorder : mini_engine::PassObserver {
  std::vector<std::string> calls;
  std::vector<std::vector<float>> keys, values;

  void before_layer(int layer) override { calls.push_back("before " + std::to_string(layer)); }
  void on_projected(int layer, const mini_engine::ProjectedRows& rows) override {
    calls.push_back("projected " + std::to_string(layer));
    const auto num_elements = rows.num_rows * rows.row_stride;
    const auto* const k = static_cast<const float*>(rows.keys);
    const auto* const v = static_cast<const float*>(rows.values);
    keys.emplace_back(k, k + num_elements);
    values.emplace_back(v, v + num_elements);
  }
};

TEST_CASE("logits of every shape agree with the reference, prefilled at once and decoded") {
  for (const Shape& shape : kShapes) {
    CAPTURE(shape.name);
    const MemoryModel file(config_of(shape), 7, shape.rope_rows);
    const std::vector<TokenId> tokens = test_support::random_tokens(45, file.config().vocab_size, 3);
    const ReferenceResult reference = test_support::reference_forward(file, tokens);
    CpuModel model(file, {.num_threads = 2});
    PagedCache cache(file.config(), Precision::kFloat32, 20, 5);

    Sequence at_once(cache);
    at_once.grow(45);
    CHECK(worst_row(test_support::run_rows(model, at_once, tokens, 0, 45), reference) < kFloatBound);

    Sequence one_by_one(cache);
    std::vector<float> logits;
    for (int row = 0; row < 45; ++row) {
      one_by_one.grow(1);
      const std::vector<float> next = test_support::run_rows(model, one_by_one, tokens, row, row + 1);
      logits.insert(logits.end(), next.begin(), next.end());
    }
    CHECK(worst_row(logits, reference) < kFloatBound);
  }
}

TEST_CASE("rotary scaling agrees with the reference") {
  ModelConfig config = config_of(kShapes[1]);
  SUBCASE("linear") {
    config.rope.scaling = mini_engine::RopeScaling::kLinear;
    config.rope.factor = 4.0;
  }
  SUBCASE("llama3, with pairs in all three bands") {
    config.rope.scaling = mini_engine::RopeScaling::kLlama3;
    config.rope.factor = 8.0;
    config.rope.original_max_positions = 64;
  }
  SUBCASE("frequency divisors, which win over the scaling rule") {
    config.rope.scaling = mini_engine::RopeScaling::kLinear;
    config.rope.factor = 100.0;
    config.rope.frequency_divisors = {1.0F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 8.0F, 8.0F};
  }
  const MemoryModel file(config, 11);
  const std::vector<TokenId> tokens = test_support::random_tokens(90, config.vocab_size, 4);
  CpuModel model(file, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 12, 8);
  Sequence sequence(cache);
  sequence.grow(90);
  CHECK(worst_row(test_support::run_rows(model, sequence, tokens, 0, 90),
                  test_support::reference_forward(file, tokens)) < kFloatBound);
}

TEST_CASE("bf16 caches and bf16 weights agree with a reference that rounds at the same places") {
  const MemoryModel file(config_of(kShapes[1]), 5);
  const std::vector<TokenId> tokens = test_support::random_tokens(40, file.config().vocab_size, 6);
  for (const Precision weights : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const Precision cached : {Precision::kFloat32, Precision::kBFloat16}) {
      const bool rounds_weights = weights == Precision::kBFloat16;
      const bool rounds_cache = cached == Precision::kBFloat16;
      CAPTURE(rounds_weights);
      CAPTURE(rounds_cache);
      const ReferenceResult reference = test_support::reference_forward(
          file, tokens, {.documents = {}, .rounds_cache = rounds_cache, .rounds_weights = rounds_weights});
      CpuModel model(file, {.weights = weights, .num_threads = 2});
      PagedCache cache(file.config(), cached, 10, 8);
      Sequence sequence(cache);
      sequence.grow(40);
      // Thirty rows in one pass take sgemm, then the rest one by one the kernels for few rows.
      std::vector<float> logits = test_support::run_rows(model, sequence, tokens, 0, 30);
      for (int row = 30; row < 40; ++row) {
        const std::vector<float> next = test_support::run_rows(model, sequence, tokens, row, row + 1);
        logits.insert(logits.end(), next.begin(), next.end());
      }
      CHECK(worst_row(logits, reference) < (rounds_cache ? kBFloatBound : kFloatBound));
    }
  }
}

TEST_CASE("documents see themselves alone, and rows of no document see everything") {
  const MemoryModel file(config_of(kShapes[1]), 9);
  constexpr std::int32_t kAll = mini_engine::Pass::kSeesAll;
  // A shared beginning, two documents, one of them in two places, and a question.
  std::vector<std::int32_t> documents;
  const auto append = [&](int count, std::int32_t document) {
    for (int row = 0; row < count; ++row) documents.push_back(document);
  };
  append(3, kAll);
  append(17, 0);
  append(9, 4);
  append(6, 0);
  append(12, kAll);
  const auto num_rows = static_cast<int>(documents.size());
  const std::vector<TokenId> tokens = test_support::random_tokens(num_rows, file.config().vocab_size, 8);
  const ReferenceResult reference = test_support::reference_forward(file, tokens, {.documents = documents});
  const ReferenceResult causal = test_support::reference_forward(file, tokens);
  CpuModel model(file, {.num_threads = 2});
  PagedCache cache(file.config(), Precision::kFloat32, 20, 5);

  Sequence at_once(cache);
  at_once.grow(num_rows);
  const std::vector<float> logits = test_support::run_rows(model, at_once, tokens, 0, num_rows, documents);
  CHECK(worst_row(logits, reference) < kFloatBound);
  CHECK(worst_row(logits, causal) > 0.01);

  Sequence one_by_one(cache);
  one_by_one.grow(num_rows);
  std::vector<float> decoded;
  for (int row = 0; row < num_rows; ++row) {
    const std::vector<float> next = test_support::run_rows(model, one_by_one, tokens, row, row + 1, documents);
    decoded.insert(decoded.end(), next.begin(), next.end());
  }
  CHECK(worst_row(decoded, reference) < kFloatBound);
}

TEST_CASE("documents that fill whole chunks of keys hide them from a decoded row") {
  ModelConfig config = config_of(kShapes[1]);
  config.num_layers = 2;
  const MemoryModel file(config, 15);
  // More than the 256 keys of a chunk lie before the last document.
  std::vector<std::int32_t> documents(300, 0);
  documents.resize(330, 1);
  const std::vector<TokenId> tokens = test_support::random_tokens(330, config.vocab_size, 2);
  const ReferenceResult reference = test_support::reference_forward(file, tokens, {.documents = documents});
  CpuModel model(file, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 30, 16);
  Sequence sequence(cache);
  sequence.grow(330);
  CHECK(worst_row(test_support::run_rows(model, sequence, tokens, 0, 330, documents), reference) < kFloatBound);
  const std::vector<float> last = test_support::run_rows(model, sequence, tokens, 327, 330, documents);
  CHECK(test_support::relative_error(std::span<const float>(last).subspan(202),
                                     std::span<const double>(reference.logits[329])) < kFloatBound);
}

TEST_CASE("the observer sees unrotated K and V, and the cache holds rotated ones") {
  const MemoryModel file(config_of(kShapes[1]), 13);
  const ModelConfig& config = file.config();
  const std::vector<TokenId> tokens = test_support::random_tokens(20, config.vocab_size, 5);
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    const bool rounds = precision == Precision::kBFloat16;
    CAPTURE(rounds);
    const ReferenceResult reference =
        test_support::reference_forward(file, tokens, {.documents = {}, .rounds_cache = rounds});
    CpuModel model(file, {.num_threads = 2});
    PagedCache cache(config, precision, 4, 8);
    Sequence sequence(cache);
    sequence.grow(20);
    Recorder recorder;
    (void)test_support::run_rows(model, sequence, tokens, 0, 20, {}, &recorder);
    CHECK(recorder.calls ==
          std::vector<std::string>{"before 0", "projected 0", "before 1", "projected 1", "before 2", "projected 2"});
    const double bound = rounds ? kBFloatBound : kFloatBound;
    const auto size = static_cast<std::size_t>(config.num_kv_heads * config.head_dim);
    for (int layer = 0; layer < config.num_layers; ++layer) {
      const auto l = static_cast<std::size_t>(layer);
      for (std::size_t row = 0; row < tokens.size(); ++row) {
        const auto seen = [&](const std::vector<float>& of) { return std::span(of).subspan(row * size, size); };
        CHECK(test_support::relative_error(seen(recorder.keys[l]), std::span(reference.keys[l][row])) < bound);
        CHECK(test_support::relative_error(seen(recorder.values[l]), std::span(reference.values[l][row])) < bound);

        std::vector<float> keys, values;
        for (int head = 0; head < config.num_kv_heads; ++head) {
          for (int d = 0; d < config.head_dim; ++d) {
            if (rounds) {
              const mini_engine::CacheRows<mini_engine::BFloat16> rows(cache, layer);
              keys.push_back(mini_engine::to_float(rows.key(sequence.slots()[row], head)[d]));
              values.push_back(mini_engine::to_float(rows.value(sequence.slots()[row], head)[d]));
            } else {
              const mini_engine::CacheRows<float> rows(cache, layer);
              keys.push_back(rows.key(sequence.slots()[row], head)[d]);
              values.push_back(rows.value(sequence.slots()[row], head)[d]);
            }
          }
        }
        CHECK(test_support::relative_error(std::span<const float>(keys),
                                           std::span<const double>(reference.rotated_keys[l][row])) < bound);
        // What the observer saw of V is bit for bit what the cache holds, and of K after the stated rotation.
        CHECK(std::equal(values.begin(), values.end(), seen(recorder.values[l]).begin()));
        for (int i = 0; i < config.head_dim / 2; ++i) {
          const auto pair = static_cast<std::size_t>(i);
          const std::size_t angle = row * static_cast<std::size_t>(config.head_dim / 2) + pair;
          const float cos = model.rotary().cos[angle], sin = model.rotary().sin[angle];
          const float lo = seen(recorder.keys[l])[pair];
          const float hi = seen(recorder.keys[l])[pair + static_cast<std::size_t>(config.head_dim / 2)];
          const float rotated = std::fma(lo, cos, -(hi * sin));
          CHECK(keys[pair] == (rounds ? mini_engine::to_float(mini_engine::to_bfloat16(rotated)) : rotated));
        }
      }
    }
  }
}

}  // namespace
