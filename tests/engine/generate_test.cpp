#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/generate.hpp"
#include "support/engine_runs.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::Generation;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Precision;
using mini_engine::Sampler;
using mini_engine::Sequence;
using mini_engine::StopReason;
using mini_engine::TokenId;

struct Setup {
  explicit Setup(const ModelConfig& config)
      : model(CpuModel::random(config, 21, {.num_threads = 2})),
        cache(config, Precision::kFloat32, 8, 4),
        sequence(cache) {}
  CpuModel model;
  PagedCache cache;
  Sequence sequence;
  Sampler sampler{{}};
};

const std::vector<TokenId> kPrompt = {5, 17, 3, 99, 0};

TEST_CASE("greedy generation is the chain of the most likely tokens") {
  Setup setup(test_support::small_config());
  std::vector<TokenId> streamed;
  const Generation generation =
      mini_engine::generate(setup.model, setup.sequence, kPrompt, setup.sampler, 12, [&](TokenId token) {
        streamed.push_back(token);
        return true;
      });
  CHECK(generation.stop_reason == StopReason::kTokenLimit);
  REQUIRE(generation.tokens.size() == 12);
  CHECK(streamed == generation.tokens);
  CHECK(generation.num_decode_passes == 11);
  CHECK(setup.sequence.size() == 16);

  std::vector<TokenId> all = kPrompt;
  all.insert(all.end(), generation.tokens.begin(), generation.tokens.end());
  Sequence whole(setup.cache);
  whole.grow(16);
  const std::vector<float> logits = test_support::run_rows(setup.model, whole, all, 0, 16);
  for (std::ptrdiff_t row = 4; row < 16; ++row) {
    const auto begin = logits.begin() + row * 101;
    CHECK(std::max_element(begin, begin + 101) - begin ==
          static_cast<std::ptrdiff_t>(all[static_cast<std::size_t>(row + 1)]));
  }
}

TEST_CASE("generation stops at an end token, at the caller's word, and where positions end") {
  ModelConfig config = test_support::small_config();
  Setup free(config);
  const std::vector<TokenId> tokens = mini_engine::generate(free.model, free.sequence, kPrompt, free.sampler, 8).tokens;
  REQUIRE(tokens.size() == 8);

  const auto first_of = [&](TokenId token) { return std::find(tokens.begin(), tokens.end(), token) - tokens.begin(); };
  config.eos_ids = {tokens[4]};
  Setup ended(config);
  const Generation at_end = mini_engine::generate(ended.model, ended.sequence, kPrompt, ended.sampler, 8);
  CHECK(at_end.stop_reason == StopReason::kEndOfText);
  CHECK(at_end.tokens == std::vector<TokenId>(tokens.begin(), tokens.begin() + first_of(tokens[4])));

  Setup stopped(test_support::small_config());
  const Generation by_caller = mini_engine::generate(stopped.model, stopped.sequence, kPrompt, stopped.sampler, 8,
                                                     [n = 0](TokenId) mutable { return ++n < 3; });
  CHECK(by_caller.stop_reason == StopReason::kCaller);
  CHECK(by_caller.tokens == std::vector<TokenId>(tokens.begin(), tokens.begin() + 3));

  config = test_support::small_config();
  config.max_positions = 7;
  Setup narrow(config);
  const Generation at_limit = mini_engine::generate(narrow.model, narrow.sequence, kPrompt, narrow.sampler, 8);
  CHECK(at_limit.stop_reason == StopReason::kContextLimit);
  CHECK(at_limit.tokens == std::vector<TokenId>(tokens.begin(), tokens.begin() + 3));
}

TEST_CASE("generation that cannot start, or runs out of pages") {
  Setup setup(test_support::small_config());
  CHECK_THROWS_AS((void)mini_engine::generate(setup.model, setup.sequence, {}, setup.sampler, 1), mini_engine::Error);
  CHECK_THROWS_AS((void)mini_engine::generate(setup.model, setup.sequence, kPrompt, setup.sampler, -1),
                  mini_engine::Error);
  setup.sequence.truncate(0);
  const std::vector<TokenId> long_prompt(601, 1);
  CHECK_THROWS_AS((void)mini_engine::generate(setup.model, setup.sequence, long_prompt, setup.sampler, 1),
                  mini_engine::Error);
  // Eight pages of four: the prompt and 27 tokens fit, feeding back the 28th does not.
  int num_tokens = 0;
  CHECK_THROWS_AS((void)mini_engine::generate(setup.model, setup.sequence, kPrompt, setup.sampler, 100,
                                              [&](TokenId) { return ++num_tokens > 0; }),
                  mini_engine::Error);
  CHECK(num_tokens == 28);
  CHECK(setup.sequence.size() == 32);
}

}  // namespace
