// The inner loops of row scores: products of queries and keys, softmax, sums, distances. Part of the row kernels, whose
// rules hold here too: plain data only.
#pragma once

#include <cstdint>

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Keys of one tile, transposed so that neighbouring keys are neighbouring lanes.
inline constexpr std::int64_t kTileKeys = 64;

/// Rows of floats whose loops have no remainder are padded to a multiple of this.
inline constexpr std::int64_t kPaddedFloats = 16;

struct ScoreTile {
  const float* queries;  ///< [num_queries][head_dim]
  const float* keys;     ///< [head_dim][kTileKeys]
  float* products;       ///< [num_queries][kTileKeys], rows `product_stride` apart, written
  std::int64_t num_queries;
  std::int64_t head_dim;
  std::int64_t product_stride;
};

struct ScoreKernels {
  void (*multiply)(const ScoreTile& tile) noexcept;
  // Requires of these three: num_values is a positive multiple of kPaddedFloats.
  float (*maximum)(const float* values, std::int64_t num_values) noexcept;
  /// values[i] = 2^(values[i] - maximum), at least 2^-126. Returns their sum. Requires: no value is above the maximum.
  float (*exponentiate)(float* values, std::int64_t num_values, float maximum) noexcept;
  /// target[i] += factor * source[i].
  void (*accumulate)(const float* source, float factor, float* target, std::int64_t num_values) noexcept;
  // Of these two: any number.
  float (*sum)(const float* values, std::int64_t num_values) noexcept;
  float (*squared_distance)(const float* a, const float* b, std::int64_t num_values) noexcept;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
