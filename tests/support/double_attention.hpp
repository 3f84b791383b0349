// Attention in double precision, written for the eye: an oracle for one layer, over rows of a sequence.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/config.hpp"

namespace test_support {

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
    const auto num_keys = static_cast<std::size_t>(rows[i]) + 1;
    for (std::size_t head = 0; head < num_heads; ++head) {
      const std::size_t kv_head = head * num_kv_heads / num_heads;
      const auto place = [&](std::size_t key) { return (key * num_kv_heads + kv_head) * head_dim; };
      std::vector<double> mixed(head_dim);
      double sum = 0.0;
      for (std::size_t key = 0; key < num_keys; ++key) {
        double score = 0.0;
        for (std::size_t d = 0; d < head_dim; ++d) {
          score += double{queries[(i * num_heads + head) * head_dim + d]} * double{keys[place(key) + d]};
        }
        const double weight = std::exp(score / std::sqrt(static_cast<double>(head_dim)));
        sum += weight;
        for (std::size_t d = 0; d < head_dim; ++d) mixed[d] += weight * double{values[place(key) + d]};
      }
      for (const double x : mixed) out.push_back(static_cast<float>(x / sum));
    }
  }
  return out;
}

}  // namespace test_support
