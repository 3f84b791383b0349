// Every wrong pass and every wrong model is refused with a message that names what was wrong.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::Error;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;

template <typename Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool says(const std::string& message, const std::string& part) {
  INFO(message);
  const bool found = message.find(part) != std::string::npos;
  CHECK_MESSAGE(found, "'" << message << "' should say '" << part << "'");
  return found;
}

TEST_CASE("passes that make no sense") {
  ModelConfig config = test_support::small_config();
  config.max_positions = 24;
  CpuModel model = CpuModel::random(config, 1, {.num_threads = 1});
  PagedCache cache(config, Precision::kFloat32, 4, 8);
  Sequence sequence(cache);
  sequence.grow(26);
  const auto refused = [&](const std::vector<TokenId>& tokens, const std::vector<std::int32_t>& rows,
                           const std::vector<std::int32_t>& logit_rows,
                           const std::vector<std::int32_t>& documents = {}) {
    return message_of([&] {
      (void)model.forward({.tokens = tokens, .rows = rows, .logit_rows = logit_rows, .documents = documents}, sequence);
    });
  };
  says(refused({1, 2}, {0}, {}), "2 tokens for 1 rows");
  says(refused({1}, {26}, {}), "rows[0] is 26, not in [0, 26)");
  says(refused({1}, {-1}, {}), "rows[0] is -1");
  says(refused({1, 2}, {3, 3}, {}), "rows[1] is 3, not above the one before it, 3");
  says(refused({1, 2}, {3, 2}, {}), "rows[1] is 2");
  says(refused({1, 101}, {0, 1}, {}), "tokens[1] is 101, the vocabulary has 101");
  says(refused({1}, {0}, {1}), "logit_rows[0] is 1, not in [0, 1)");
  says(refused({1, 2}, {0, 1}, {1, 0}), "logit_rows[1] is 0");
  says(refused({1}, {24}, {}), "position 24 is beyond the model's 24 positions");
  says(refused({1}, {0}, {}, {0, 0}), "2 documents for a sequence of 26 rows");
  says(refused({1}, {0}, {}, std::vector<std::int32_t>(26, -2)), "documents[0] is -2");
  CHECK(refused({1}, {23}, {0}) == "nothing was thrown");
}

TEST_CASE("a cache that was made for another model") {
  const ModelConfig config = test_support::small_config();
  CpuModel model = CpuModel::random(config, 1, {.num_threads = 1});
  for (int which = 0; which < 3; ++which) {
    ModelConfig other = config;
    if (which == 0) other.num_layers += 1;
    if (which == 1) other.num_kv_heads += 1;
    if (which == 2) other.head_dim *= 2;
    PagedCache cache(other, Precision::kFloat32, 2, 8);
    Sequence sequence(cache);
    sequence.grow(1);
    const std::vector<TokenId> token = {0};
    says(message_of([&] { (void)test_support::run_rows(model, sequence, token, 0, 1); }), "made for a model of other");
  }
}

TEST_CASE("models that cannot be computed") {
  ModelConfig config = test_support::small_config();
  config.num_kv_heads = 4;
  CHECK_THROWS_AS(CpuModel::random(config, 1, {.num_threads = 1}), Error);
  config = test_support::small_config();
  config.rope.frequency_divisors = {1.0F};
  CHECK_THROWS_AS(CpuModel::random(config, 1, {.num_threads = 1}), Error);
  config = test_support::small_config();
  says(message_of([&] { (void)CpuModel::random(config, 1, {.num_threads = -1}); }), "number of threads is -1");
  // An embedding of four billion billion elements.
  config.vocab_size = 2000000000;
  config.hidden_size = 2000000000;
  CHECK_THROWS_AS(CpuModel::random(config, 1, {.num_threads = 1}), Error);
}

TEST_CASE("a file whose tensors have other shapes than its configuration") {
  using mini_engine::TensorRole;
  for (const TensorRole role : {TensorRole::kQuery, TensorRole::kFfnDown, TensorRole::kAttentionNorm}) {
    test_support::MemoryModel file(test_support::small_config(), 1);
    file.misreport(role, 1, 7, 9);
    says(message_of([&] { const CpuModel model(file, {.num_threads = 2}); }), "of layer 1 is 7 by 9");
  }
}

}  // namespace
