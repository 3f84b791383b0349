// The real model against torch and transformers (tests/golden/make_engine_golden.py). Needs the file, whose path the
// environment variable PIKV_SMOLLM2 gives.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
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

// Two likeliest tokens that are closer than this in torch may change places for rounding alone.
constexpr double kTie = 2e-3;

std::vector<TokenId> top_ids(const std::vector<float>& logits, std::size_t vocab_size) {
  std::vector<TokenId> ids;
  for (auto row = logits.begin(); row != logits.end(); row += static_cast<std::ptrdiff_t>(vocab_size)) {
    ids.push_back(static_cast<TokenId>(std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab_size)) - row));
  }
  return ids;
}

TEST_CASE("SmolLM2 predicts what it predicts in torch") {
  const char* path = std::getenv("PIKV_SMOLLM2");
  if (path == nullptr) {
    MESSAGE("skipped: PIKV_SMOLLM2 does not name the GGUF file");
    return;
  }
  std::ifstream golden_file(std::string(PIKV_TEST_DATA) + "/golden/engine_smollm2.json");
  REQUIRE(golden_file);
  const nlohmann::json golden = nlohmann::json::parse(golden_file);
  REQUIRE(golden["prompts"].size() >= 5);

  const auto file = mini_engine::open_model(path);
  const auto vocab_size = static_cast<std::size_t>(file->config().vocab_size);
  mini_engine::CpuModel model(*file, {.num_threads = 2});
  for (const nlohmann::json& prompt : golden["prompts"]) {
    const auto name = prompt["name"].get<std::string>();
    CAPTURE(name);
    const auto tokens = prompt["tokens"].get<std::vector<TokenId>>();
    const auto expected = prompt["top_1"].get<std::vector<TokenId>>();
    const auto margins = prompt["margins"].get<std::vector<double>>();
    const auto num_rows = static_cast<int>(tokens.size());
    REQUIRE(num_rows >= 16);
    mini_engine::PagedCache cache(file->config(), Precision::kFloat32, num_rows / 16 + 1, 16);
    mini_engine::Sequence sequence(cache);
    sequence.grow(num_rows);
    const std::vector<float> logits = test_support::run_rows(model, sequence, tokens, 0, num_rows);

    const std::vector<TokenId> found = top_ids(logits, vocab_size);
    for (std::size_t row = 0; row < found.size(); ++row) {
      CAPTURE(row);
      if (margins[row] > kTie) CHECK(found[row] == expected[row]);
    }
    const auto last_ids = prompt["last_ids"].get<std::vector<TokenId>>();
    const auto last_logits = prompt["last_logits"].get<std::vector<double>>();
    for (std::size_t i = 0; i < last_ids.size(); ++i) {
      const double logit = double{logits[(tokens.size() - 1) * vocab_size + last_ids[i]]};
      CHECK(std::abs(logit - last_logits[i]) < 1e-3);
    }
  }
}

}  // namespace
