// Square tiles of fp32 matrices in shared memory, and a block's sums over them: 16 x 16 threads with 4 x 4 elements
// each, 16 apart, so that a warp reads neighbouring banks.
#pragma once

#include <cstdint>

#include "drift_params.hpp"

namespace pikv::kernels {

inline constexpr std::int32_t kTileSide = kCovarianceTile;
inline constexpr std::int32_t kSideThreads = 16;
inline constexpr std::int32_t kThreadSide = kTileSide / kSideThreads;
static_assert(kSideThreads * kSideThreads == kDriftThreads);

/// Rows are one longer than they need be, so that columns lie in different banks.
struct Tile {
  float at[kTileSide][kTileSide + 1];
};

/// A thread's elements: (row() + 16 i, column() + 16 j).
struct ThreadSums {
  float at[kThreadSide][kThreadSide];

  [[nodiscard]] static __device__ __forceinline__ std::int32_t row() {
    return static_cast<std::int32_t>(threadIdx.x) / kSideThreads;
  }
  [[nodiscard]] static __device__ __forceinline__ std::int32_t column() {
    return static_cast<std::int32_t>(threadIdx.x) % kSideThreads;
  }
  /// body(element, row, column) of each.
  template <class Body>
  __device__ __forceinline__ void for_each(const Body& body) {
#pragma unroll
    for (int i = 0; i < kThreadSide; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadSide; ++j) body(at[i][j], row() + i * kSideThreads, column() + j * kSideThreads);
    }
  }
};

/// Part of a matrix in device memory; what lies beyond its end counts as zeros.
struct MatrixPart {
  const float* first;
  std::int64_t stride;
  std::int32_t num_rows, num_columns;  // that exist from `first` on; may be 0 or less

  [[nodiscard]] __device__ __forceinline__ float at(std::int32_t row, std::int32_t column) const {
    return row < num_rows && column < num_columns ? first[row * stride + column] : 0.0F;
  }
};

/// Rows are read by neighbouring threads. Every thread of the block calls it; the tile is there after a barrier.
__device__ __forceinline__ void load_tile(const MatrixPart& from, Tile& to) {
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < kTileSide * kTileSide; i += kDriftThreads) {
    to.at[i / kTileSide][i % kTileSide] = from.at(i / kTileSide, i % kTileSide);
  }
}

/// sums(i, j) = add(sums(i, j), a(i, k), b(j, k)) for all k in order.
template <class Add>
__device__ __forceinline__ void add_by_rows(const Tile& a, const Tile& b, ThreadSums& sums, const Add& add) {
#pragma unroll 8
  for (std::int32_t k = 0; k < kTileSide; ++k) {
    float left[kThreadSide];
    float right[kThreadSide];
#pragma unroll
    for (int i = 0; i < kThreadSide; ++i) {
      left[i] = a.at[ThreadSums::row() + i * kSideThreads][k];
      right[i] = b.at[ThreadSums::column() + i * kSideThreads][k];
    }
#pragma unroll
    for (int i = 0; i < kThreadSide; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadSide; ++j) sums.at[i][j] = add(sums.at[i][j], left[i], right[j]);
    }
  }
}

/// sums -= a b^T
__device__ __forceinline__ void subtract_transposed_product(const Tile& a, const Tile& b, ThreadSums& sums) {
  add_by_rows(a, b, sums, [](float sum, float x, float y) { return __fmaf_rn(-x, y, sum); });
}

/// sums -= a b
__device__ __forceinline__ void subtract_product(const Tile& a, const Tile& b, ThreadSums& sums) {
#pragma unroll 8
  for (std::int32_t k = 0; k < kTileSide; ++k) {
#pragma unroll
    for (int i = 0; i < kThreadSide; ++i) {
      const float left = a.at[ThreadSums::row() + i * kSideThreads][k];
#pragma unroll
      for (int j = 0; j < kThreadSide; ++j) {
        sums.at[i][j] = __fmaf_rn(-left, b.at[k][ThreadSums::column() + j * kSideThreads], sums.at[i][j]);
      }
    }
  }
}

}  // namespace pikv::kernels
