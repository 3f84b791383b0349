// Attention of one query head on the host, over keys and values that lie there in fp32.
#pragma once

#include <cstdint>

#include "mini_engine/matmul.hpp"

namespace lab {

/// Number `head` of the heads of [R] rows of `row_size` elements.
[[nodiscard]] inline mini_engine::InputRows head_rows(const float* rows, std::int64_t row_size, int head,
                                                      int head_dim) {
  return {rows + std::int64_t{head} * head_dim, row_size};
}

/// scores[r][k] = factor * dot(queries[r], keys[k]) over [0, head_dim). The calling threads must hold a
/// mini_engine::SingleThreadedBlas between them.
void attention_scores(mini_engine::InputRows queries, std::int64_t num_rows, mini_engine::InputRows keys,
                      std::int64_t num_keys, int head_dim, float factor, mini_engine::OutputRows scores);

/// Softmax of the first `num_visible` of `num_keys` scores, in place; the others become 0. Returns the logarithm of the
/// sum of the exponentials: minus infinity when nothing is visible.
double softmax(float* scores, std::int64_t num_visible, std::int64_t num_keys);

/// out[r] (+)= sum over k of weights[r][k] * values[k], as Store says. As attention_scores().
void weighted_values(mini_engine::InputRows weights, std::int64_t num_rows, mini_engine::InputRows values,
                     std::int64_t num_keys, int head_dim, mini_engine::Store store, mini_engine::OutputRows out);

}  // namespace lab
