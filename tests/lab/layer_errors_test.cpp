// Rows read out of a cache, and errors between two sequences.
#include "lab/layer_errors.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "lab/cached_rows.hpp"
#include "lab/prompt_runs.hpp"
#include "mini_engine/bfloat16.hpp"
#include "mini_engine/error.hpp"

namespace {

using mini_engine::Precision;
using mini_engine::Sequence;
using Rows = std::vector<std::int32_t>;

TEST_CASE("rows come out of a cache in the order asked for, in either precision") {
  const mini_engine::ModelConfig config = test_support::small_config();
  const Rows rows = {15, 16, 17, 3, 33, 2};
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    mini_engine::PagedCache cache(config, precision, 8, 16);
    Sequence other(cache);
    Sequence sequence(cache);
    // Pages of two sequences lie between each other.
    sequence.grow(20);
    other.grow(20);
    sequence.grow(20);
    const auto name = [&](int layer, std::size_t row, int part, int element) {
      return static_cast<float>(layer * 64 + static_cast<int>(row)) + static_cast<float>(part * 32 + element % 32) / 64;
    };
    const auto fill = [&](auto zero, const auto& converted) {
      for (int layer = 0; layer < 3; ++layer) {
        const mini_engine::CacheRows<decltype(zero)> of_layer(cache, layer);
        for (std::size_t row = 0; row < 40; ++row) {
          for (int i = 0; i < 32; ++i) {
            of_layer.key(sequence.slots()[row], 0)[i] = converted(name(layer, row, 0, i));
            of_layer.value(sequence.slots()[row], 0)[i] = converted(name(layer, row, 1, i));
          }
        }
      }
    };
    const auto rounded = [](float x) { return mini_engine::to_float(mini_engine::to_bfloat16(x)); };
    if (precision == Precision::kFloat32) {
      fill(float{}, [](float x) { return x; });
    } else {
      fill(mini_engine::BFloat16{}, [](float x) { return mini_engine::to_bfloat16(x); });
    }
    for (int layer = 0; layer < 3; ++layer) {
      std::vector<float> keys, values;
      for (const std::int32_t row : rows) {
        for (int i = 0; i < 32; ++i) {
          keys.push_back(name(layer, static_cast<std::size_t>(row), 0, i));
          values.push_back(name(layer, static_cast<std::size_t>(row), 1, i));
        }
      }
      if (precision == Precision::kBFloat16) {
        for (float& x : keys) x = rounded(x);
        for (float& x : values) x = rounded(x);
      }
      CHECK(lab::read_keys(sequence, layer, rows) == keys);
      CHECK(lab::read_values(sequence, layer, rows) == values);
    }
    CHECK_THROWS_WITH_AS((void)lab::read_keys(sequence, 3, rows), "reading a cache of 3 layers: there is no layer 3",
                         mini_engine::Error);
    CHECK_THROWS_WITH_AS((void)lab::read_values(sequence, 0, Rows{1, 40}),
                         "reading a sequence of 40 rows: there is no row 40", mini_engine::Error);
  }
}

TEST_CASE("errors of layers, of the rows asked for alone") {
  test_support::LabWorld world;
  mini_engine::ThreadPool pool(2);
  const mini_engine::ModelConfig& config = world.model.config();
  const auto tokens = test_support::random_tokens(50, config.vocab_size, 2);
  const Sequence full = world.computed(tokens);
  const Sequence arm = world.computed(tokens);
  const Rows context = test_support::range(10, 40);
  for (const lab::LayerError& error : lab::layer_errors(config, full, arm, context, pool)) {
    CHECK(error.keys == 0.0);
    CHECK(error.values == 0.0);
  }

  for (std::int32_t row = 10; row < 40; ++row) {
    test_support::with_row(arm, 1, row, [](float*, float* value) {
      for (int i = 0; i < 32; ++i) value[i] *= 1.25F;
    });
    test_support::with_row(arm, 2, row, [](float* key, float*) {
      for (int i = 0; i < 32; ++i) key[i] = 0.0F;
    });
  }
  test_support::with_row(arm, 0, 9, [](float* key, float*) { key[0] += 100.0F; });
  test_support::with_row(arm, 0, 40, [](float*, float* value) { value[0] += 100.0F; });
  const std::vector<lab::LayerError> errors = lab::layer_errors(config, full, arm, context, pool);
  REQUIRE(errors.size() == 3);
  CHECK(errors[0].keys == 0.0);
  CHECK(errors[0].values == 0.0);
  CHECK(errors[1].keys == 0.0);
  CHECK(errors[1].values == doctest::Approx(0.25).epsilon(1e-6));
  CHECK(errors[2].keys == 1.0);
  CHECK(errors[2].values == 0.0);
  CHECK_THROWS_AS((void)lab::layer_errors(config, full, arm, Rows{50}, pool), mini_engine::Error);
}

}  // namespace
