// The inner loops of the engine, each compiled once for the plain machine and, on x86, once for AVX2 and once for
// AVX-512. Which set runs is decided when the program starts, so that one binary runs anywhere.
//
// Every set gives the same result each time it is called with the same arguments. Sets differ among each other by
// rounding, except for `rotate`, `expand_bf16`, `round_bf16` and `round_to_bf16`, which are exact.
#pragma once

#include <cstdint>

#include "../bfloat16.hpp"

namespace mini_engine::simd {

/// y[r][o] (+)= dot(w[o], x[r]) over [0, size) for r < num_rows and o < num_outputs. Strides are in elements between
/// rows. Meant for few rows: weights are read once, straight from memory.
template <typename T>
struct DotArguments {
  const T* w;
  std::int64_t w_stride;
  int num_outputs;
  int size;
  const float* x;
  std::int64_t x_stride;
  int num_rows;
  float* y;
  std::int64_t y_stride;
  bool adds;  ///< add to y rather than replace it
};

/// y[r][d] += sum over j of p[r][j] * v[j][d], for r < num_rows, j < num_terms, d < size.
template <typename T>
struct WeightedSumArguments {
  const T* v;
  std::int64_t v_stride;
  int num_terms;
  int size;
  const float* p;
  std::int64_t p_stride;
  int num_rows;
  float* y;
  std::int64_t y_stride;
};

struct Kernels {
  const char* name;

  void (*dot_f32)(const DotArguments<float>&);
  void (*dot_bf16)(const DotArguments<BFloat16>&);
  void (*weighted_sum_f32)(const WeightedSumArguments<float>&);
  void (*weighted_sum_bf16)(const WeightedSumArguments<BFloat16>&);

  /// y = weight * x / sqrt(mean(x^2) + epsilon), all of [size].
  void (*rmsnorm)(const float* x, const float* weight, float epsilon, float* y, int size);
  /// y[i] = fma(x[i], cos[i], -(x[i + half] * sin[i])); y[i + half] = fma(x[i + half], cos[i], x[i] * sin[i]).
  /// y may be x.
  void (*rotate)(const float* x, const float* cos, const float* sin, float* y, int half);
  /// y = gate / (1 + exp(-gate)) * up. y may be gate or up.
  void (*silu_multiply)(const float* gate, const float* up, float* y, std::int64_t size);
  /// y = x * factor. y may be x.
  void (*scale)(const float* x, float factor, float* y, std::int64_t size);
  /// Largest of x[0, size); minus infinity when size is 0. NaNs may be passed over.
  float (*largest)(const float* x, std::int64_t size);
  /// x = exp(x - shift) in place; returns the sum. Arguments below -87 give 0. Relative error of exp below 2e-7.
  float (*exp_and_sum)(float* x, float shift, std::int64_t size);

  void (*expand_bf16)(const BFloat16* x, float* y, std::int64_t size);
  /// To nearest even.
  void (*round_bf16)(const float* x, BFloat16* y, std::int64_t size);
  /// Rounds to what bf16 can hold but stays fp32. y may be x.
  void (*round_to_bf16)(const float* x, float* y, std::int64_t size);
};

/// The fastest set this machine can run.
[[nodiscard]] const Kernels& kernels();
/// Set number `index` of those this machine can run, fastest first; null past the end. For tests.
[[nodiscard]] const Kernels* kernels_at(int index);

}  // namespace mini_engine::simd
