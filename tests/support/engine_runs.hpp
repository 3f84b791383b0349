// Short ways to run the engine in tests: a sequence that grows, tokens by chance, and comparisons of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"

namespace test_support {

inline mini_engine::ModelConfig small_config() {
  mini_engine::ModelConfig config;
  config.num_layers = 3;
  config.hidden_size = 48;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.ffn_size = 80;
  config.vocab_size = 101;
  config.max_positions = 600;
  config.name = "small";
  return config;
}

inline std::vector<mini_engine::TokenId> random_tokens(int count, int vocab_size, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<mini_engine::TokenId> ids(0, static_cast<mini_engine::TokenId>(vocab_size - 1));
  std::vector<mini_engine::TokenId> tokens(static_cast<std::size_t>(count));
  for (mini_engine::TokenId& token : tokens) token = ids(random);
  return tokens;
}

inline std::vector<std::int32_t> range(int begin, int end) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(end - begin));
  std::iota(out.begin(), out.end(), begin);
  return out;
}

/// Computes rows [begin, end) of the sequence, which must have them; returns logits of all, [end - begin][V].
inline std::vector<float> run_rows(mini_engine::Model& model, mini_engine::Sequence& sequence,
                                   std::span<const mini_engine::TokenId> tokens, int begin, int end,
                                   std::span<const std::int32_t> documents = {},
                                   mini_engine::PassObserver* observer = nullptr) {
  const std::vector<std::int32_t> rows = range(begin, end);
  const std::vector<std::int32_t> logit_rows = range(0, end - begin);
  return model.forward({.tokens = tokens.subspan(static_cast<std::size_t>(begin), rows.size()),
                        .rows = rows,
                        .logit_rows = logit_rows,
                        .documents = documents,
                        .observer = observer},
                       sequence);
}

/// Root of the summed squared difference over that of b. Not a number when either holds one.
template <typename A, typename B>
double relative_error(std::span<const A> a, std::span<const B> b) {
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace test_support
