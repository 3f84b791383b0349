#include "lab/head_attention.hpp"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "mini_engine/simd/kernels.hpp"

namespace lab {

using mini_engine::InputRows;
using mini_engine::OutputRows;

void attention_scores(InputRows queries, std::int64_t num_rows, InputRows keys, std::int64_t num_keys, int head_dim,
                      float factor, OutputRows scores) {
  if (num_rows == 0 || num_keys == 0) return;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(num_rows), static_cast<int>(num_keys), head_dim,
              factor, queries.data, static_cast<int>(queries.stride), keys.data, static_cast<int>(keys.stride), 0.0F,
              scores.data, static_cast<int>(scores.stride));
}

double softmax(float* scores, std::int64_t num_visible, std::int64_t num_keys) {
  std::fill(scores + num_visible, scores + num_keys, 0.0F);
  if (num_visible == 0) return -std::numeric_limits<double>::infinity();
  const mini_engine::simd::Kernels& kernels = mini_engine::simd::kernels();
  const float largest = kernels.largest(scores, num_visible);
  const float sum = kernels.exp_and_sum(scores, largest, num_visible);
  kernels.scale(scores, 1.0F / sum, scores, num_visible);
  return largest + std::log(double{sum});
}

void weighted_values(InputRows weights, std::int64_t num_rows, InputRows values, std::int64_t num_keys, int head_dim,
                     mini_engine::Store store, OutputRows out) {
  // Of no keys at all OpenBLAS may be asked nothing: a leading dimension of 0 is an error to it.
  if (num_keys == 0 && store == mini_engine::Store::kAdd) return;
  if (num_keys == 0) {
    for (std::int64_t r = 0; r < num_rows; ++r) std::fill_n(out.data + r * out.stride, head_dim, 0.0F);
    return;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(num_rows), head_dim,
              static_cast<int>(num_keys), 1.0F, weights.data, static_cast<int>(weights.stride), values.data,
              static_cast<int>(values.stride), store == mini_engine::Store::kAdd ? 1.0F : 0.0F, out.data,
              static_cast<int>(out.stride));
}

}  // namespace lab
