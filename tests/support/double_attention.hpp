// Attention in double precision, written for the eye: an oracle for one layer, over rows of a sequence.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/config.hpp"

namespace test_support {

/// What one head of a row gives to the keys of rows [0, row], which sums to 1. query: [D]; keys: [N][H*D].
inline std::vector<double> double_attention_weights(const mini_engine::ModelConfig& config, std::int32_t row,
                                                    std::size_t head, const float* query,
                                                    const std::vector<float>& keys) {
  const auto head_dim = static_cast<std::size_t>(config.head_dim);
  const auto num_kv_heads = static_cast<std::size_t>(config.num_kv_heads);
  const std::size_t kv_head = head * num_kv_heads / static_cast<std::size_t>(config.num_heads);
  std::vector<double> weights;
  double sum = 0.0;
  for (std::size_t key = 0; key <= static_cast<std::size_t>(row); ++key) {
    const float* const x = keys.data() + (key * num_kv_heads + kv_head) * head_dim;
    double score = 0.0;
    for (std::size_t d = 0; d < head_dim; ++d) score += double{query[d]} * double{x[d]};
    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(head_dim))));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// Plain causal attention. queries: [R][Q*D] rotated, of sequence rows `rows`; keys (rotated), values: [N][H*D].
/// Returns [R][Q*D].
inline std::vector<float> double_attention(const mini_engine::ModelConfig& config, std::span<const std::int32_t> rows,
                                           const std::vector<float>& queries, const std::vector<float>& keys,
                                           const std::vector<float>& values) {
  const auto head_dim = static_cast<std::size_t>(config.head_dim);
  const auto num_heads = static_cast<std::size_t>(config.num_heads);
  const auto num_kv_heads = static_cast<std::size_t>(config.num_kv_heads);
  std::vector<float> out;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t head = 0; head < num_heads; ++head) {
      const std::size_t kv_head = head * num_kv_heads / num_heads;
      const std::vector<double> weights =
          double_attention_weights(config, rows[i], head, queries.data() + (i * num_heads + head) * head_dim, keys);
      std::vector<double> mixed(head_dim);
      for (std::size_t key = 0; key < weights.size(); ++key) {
        const float* const x = values.data() + (key * num_kv_heads + kv_head) * head_dim;
        for (std::size_t d = 0; d < head_dim; ++d) mixed[d] += weights[key] * double{x[d]};
      }
      for (const double x : mixed) out.push_back(static_cast<float>(x));
    }
  }
  return out;
}

}  // namespace test_support
