// A tiny model with grouped query heads and llama3 rope scaling against logits that transformers computed from the same
// files, and rotary frequencies of well-known settings against torch's bits (tests/golden/make_engine_golden.py).
#include <doctest/doctest.h>

#include <bit>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/model_file.hpp"
#include "support/engine_runs.hpp"

namespace {

using mini_engine::Precision;
using mini_engine::TokenId;

nlohmann::json read_json(const std::string& name) {
  std::ifstream file(std::string(PIKV_TEST_DATA) + "/golden/" + name);
  REQUIRE(file);
  return nlohmann::json::parse(file);
}

TEST_CASE("the tiny llama's logits are those of transformers") {
  const nlohmann::json golden = read_json("tiny_llama/golden.json");
  const auto tokens = golden["tokens"].get<std::vector<TokenId>>();
  const auto rows = golden["rows"].get<std::vector<std::int32_t>>();
  const auto num_rows = static_cast<int>(tokens.size());
  const auto file = mini_engine::open_model(std::string(PIKV_TEST_DATA) + "/golden/tiny_llama");
  mini_engine::CpuModel model(*file, {.num_threads = 2});
  CHECK(file->config().num_heads == 6);
  CHECK(file->config().num_kv_heads == 2);

  const auto bits = golden["inverse_frequency_bits"].get<std::vector<std::uint32_t>>();
  REQUIRE(model.rotary().inverse_frequencies.size() == bits.size());
  for (std::size_t i = 0; i < bits.size(); ++i) {
    CHECK(std::bit_cast<std::uint32_t>(model.rotary().inverse_frequencies[i]) == bits[i]);
  }

  mini_engine::PagedCache cache(file->config(), Precision::kFloat32, 20, 16);
  mini_engine::Sequence sequence(cache);
  sequence.grow(num_rows);
  const std::vector<float> logits = test_support::run_rows(model, sequence, tokens, 0, num_rows);
  const auto vocab_size = static_cast<std::size_t>(file->config().vocab_size);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CAPTURE(rows[i]);
    const auto expected = golden["logits"][i].get<std::vector<float>>();
    REQUIRE(expected.size() == vocab_size);
    const auto row = std::span<const float>(logits).subspan(static_cast<std::size_t>(rows[i]) * vocab_size, vocab_size);
    CHECK(test_support::relative_error(row, std::span<const float>(expected)) < 1e-5);
  }
}

TEST_CASE("rotary frequencies are those of torch, bit for bit") {
  for (const nlohmann::json& each : read_json("rotary_frequencies.json")) {
    mini_engine::RopeParameters rope;
    rope.theta = each["theta"].get<double>();
    if (!each["llama3"].is_null()) {
      rope.scaling = mini_engine::RopeScaling::kLlama3;
      rope.factor = each["llama3"]["factor"].get<double>();
      rope.low_freq_factor = each["llama3"]["low_freq_factor"].get<double>();
      rope.high_freq_factor = each["llama3"]["high_freq_factor"].get<double>();
      rope.original_max_positions = each["llama3"]["original_max_position_embeddings"].get<int>();
    }
    const auto bits = each["inverse_frequency_bits"].get<std::vector<std::uint32_t>>();
    const mini_engine::RotaryTable table = mini_engine::make_rotary_table(rope, each["head_dim"].get<int>(), 1);
    REQUIRE(table.inverse_frequencies.size() == bits.size());
    for (std::size_t i = 0; i < bits.size(); ++i) {
      CAPTURE(i);
      CAPTURE(rope.theta);
      CHECK(std::bit_cast<std::uint32_t>(table.inverse_frequencies[i]) == bits[i]);
    }
  }
}

}  // namespace
