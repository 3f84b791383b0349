// How much rows take over from samples: covariances of rows, and with them a system of equations that is solved for
// every target. Tiles of 64 rows and columns in fp32:
//   find_factors     how a channel's differences count, from its samples
//   compare_rows     covariances of samples and targets with all samples
//   factor           the samples' covariance with noise as L L^T (Cholesky), one block: every step needs the one before
//   solve            weights = k(T, R) L^-T L^-1, each block for its targets; of the samples the same with the unit
//                    matrix in the place of covariances
//   leave_one_out    from what that gives, the inverse, to weights
// For R samples, T targets and F channels R (R + T) F products are formed, R^3 / 6 on one multiprocessor, and T R^2.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "covariance_tile.cuh"
#include "drift.hpp"

namespace pikv::kernels {
namespace {

constexpr std::int32_t kChannelLanes = 32;  // channels of a block that finds factors
constexpr std::int32_t kSampleLanes = kDriftThreads / kChannelLanes;

/// Over a block's sample lanes, in order; every thread of a channel gets it.
[[nodiscard]] __device__ float sum_lanes(float value) {
  __shared__ float lanes[kSampleLanes][kChannelLanes];
  __syncthreads();  // an earlier call may still be reading them
  const std::uint32_t channel = threadIdx.x % kChannelLanes;
  lanes[threadIdx.x / kChannelLanes][channel] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int lane = 0; lane < kSampleLanes; ++lane) sum += lanes[lane][channel];
  return sum;
}

/// factors[c] = 1 / the standard deviation of channel c over the samples; 0 where all are equal.
__global__ void __launch_bounds__(kDriftThreads) find_factors(const WeighRowsParams params) {
  const auto lane = static_cast<std::int32_t>(threadIdx.x / kChannelLanes);
  const auto channel =
      static_cast<std::int32_t>(blockIdx.x) * kChannelLanes + static_cast<std::int32_t>(threadIdx.x % kChannelLanes);
  const bool exists = channel < params.num_channels;
  // From the first sample on, so that samples which are equal have no deviation at all.
  const auto value = [&](std::int32_t sample) {
    return exists ? params.rows[std::int64_t{sample} * params.num_channels + channel] : 0.0F;
  };
  const float first = value(0);
  float sum = 0;
#pragma unroll 8
  for (std::int32_t i = lane; i < params.num_samples; i += kSampleLanes) sum += value(i) - first;
  const float mean = sum_lanes(sum) / static_cast<float>(params.num_samples);
  float squares = 0;
#pragma unroll 8
  for (std::int32_t i = lane; i < params.num_samples; i += kSampleLanes) {
    const float beside = value(i) - first - mean;
    squares = __fmaf_rn(beside, beside, squares);
  }
  const float variance = sum_lanes(squares) / static_cast<float>(params.num_samples);
  if (exists && lane == 0) params.factors[channel] = variance > 0 ? 1 / sqrtf(variance) : 0.0F;
}

[[nodiscard]] __device__ __forceinline__ std::int32_t padded_samples(const WeighRowsParams& params) {
  return covariance_tiles(params.num_samples) * kTileSide;
}

/// Tiles of samples first, then of targets, whose covariances lie where their weights will. The samples' matrix is
/// filled up with rows of the unit matrix.
__global__ void __launch_bounds__(kDriftThreads) compare_rows(const WeighRowsParams params) {
  __shared__ Tile rows;
  __shared__ Tile samples;
  const std::int32_t sample_tiles = covariance_tiles(params.num_samples);
  const auto row_tile = static_cast<std::int32_t>(blockIdx.x);
  const bool is_target = row_tile >= sample_tiles;
  const std::int32_t first_row = (is_target ? row_tile - sample_tiles : row_tile) * kTileSide;
  const std::int32_t first_sample = static_cast<std::int32_t>(blockIdx.y) * kTileSide;
  const std::int64_t stride = params.num_channels;
  const float* const targets = params.rows + params.num_samples * stride;
  const float* const own = (is_target ? targets : params.rows) + first_row * stride;
  const std::int32_t num_rows = (is_target ? params.num_targets : params.num_samples) - first_row;
  const std::int32_t num_columns = params.num_samples - first_sample;
  ThreadSums distances{};
  for (std::int32_t c = 0; c < params.num_channels; c += kTileSide) {
    const std::int32_t channels = params.num_channels - c;
    load_tile({own + c, stride, num_rows, channels}, rows);
    load_tile({params.rows + first_sample * stride + c, stride, num_columns, channels}, samples);
    __syncthreads();
    const auto channel = static_cast<std::int32_t>(threadIdx.x) % kTileSide;
    const float factor = channel < channels ? params.factors[c + channel] : 0.0F;
    for (std::int32_t r = static_cast<std::int32_t>(threadIdx.x) / kTileSide; r < kTileSide;
         r += kDriftThreads / kTileSide) {
      rows.at[r][channel] *= factor;
      samples.at[r][channel] *= factor;
    }
    __syncthreads();
    add_by_rows(rows, samples, distances, [](float sum, float x, float y) { return __fmaf_rn(x - y, x - y, sum); });
    __syncthreads();
  }
  const std::int64_t padded = padded_samples(params);
  const float share = -1.0F / static_cast<float>(params.num_channels);
  const std::int32_t* const chunks = (is_target ? params.target_chunks : params.sample_chunks) + first_row;
  distances.for_each([&](float distance, std::int32_t i, std::int32_t j) {
    const bool exists = i < num_rows && j < num_columns;
    const bool is_same = exists && chunks[i] == params.sample_chunks[first_sample + j];
    const float covariance = (is_same ? 1.0F : params.other_chunks) * expf(distance * share);
    if (is_target) {
      if (exists) params.weights[std::int64_t{first_row + i} * params.num_samples + first_sample + j] = covariance;
      return;
    }
    const bool is_diagonal = first_row + i == first_sample + j;
    const float beyond = is_diagonal ? 1.0F : 0.0F;
    params.covariance[(first_row + i) * padded + first_sample + j] =
        exists ? covariance + (is_diagonal ? params.noise : 0.0F) : beyond;
    if (!exists) return;
    params.weights[std::int64_t{params.num_targets + first_row + i} * params.num_samples + first_sample + j] = beyond;
  });
}

/// L of a tile that is L L^T, in place: its lower half and diagonal. Every thread of the block calls it.
__device__ void factor_tile(Tile& tile) {
  const auto row = static_cast<std::int32_t>(threadIdx.x) % kTileSide;
  const auto part = static_cast<std::int32_t>(threadIdx.x) / kTileSide;  // of the columns
  for (std::int32_t j = 0; j < kTileSide; ++j) {
    if (threadIdx.x == 0) tile.at[j][j] = sqrtf(tile.at[j][j]);
    __syncthreads();
    if (part == 0 && row > j) tile.at[row][j] /= tile.at[j][j];
    __syncthreads();
    for (std::int32_t k = j + 1 + part; k <= row; k += kDriftThreads / kTileSide) {
      tile.at[row][k] = __fmaf_rn(-tile.at[row][j], tile.at[k][j], tile.at[row][k]);
    }
    __syncthreads();
  }
}

/// x of x L^T = x, in place, row by row. Every thread of the block calls it; four have a row together.
__device__ void solve_transposed(const Tile& lower, Tile& x) {
  constexpr std::int32_t kParts = kDriftThreads / kTileSide;
  const auto row = static_cast<std::int32_t>(threadIdx.x) / kParts;
  const auto part = static_cast<std::int32_t>(threadIdx.x) % kParts;
  for (std::int32_t j = 0; j < kTileSide; ++j) {
    float sum = 0;
    for (std::int32_t k = part; k < j; k += kParts) sum = __fmaf_rn(x.at[row][k], lower.at[j][k], sum);
#pragma unroll
    for (int apart = 1; apart < kParts; apart *= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, apart);
    if (part == 0) x.at[row][j] = (x.at[row][j] - sum) / lower.at[j][j];
    __syncwarp();
  }
}

/// x of x L = x, likewise.
__device__ void solve_lower(const Tile& lower, Tile& x) {
  constexpr std::int32_t kParts = kDriftThreads / kTileSide;
  const auto row = static_cast<std::int32_t>(threadIdx.x) / kParts;
  const auto part = static_cast<std::int32_t>(threadIdx.x) % kParts;
  for (std::int32_t j = kTileSide - 1; j >= 0; --j) {
    float sum = 0;
    for (std::int32_t k = j + 1 + part; k < kTileSide; k += kParts) {
      sum = __fmaf_rn(x.at[row][k], lower.at[k][j], sum);
    }
#pragma unroll
    for (int apart = 1; apart < kParts; apart *= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, apart);
    if (part == 0) x.at[row][j] = (x.at[row][j] - sum) / lower.at[j][j];
    __syncwarp();
  }
}

/// The three tiles of a block, which together are more than a kernel has without asking.
struct Workplace {
  Tile left;
  Tile right;
  Tile diagonal;
};

/// Whole tiles, of a matrix of so many rows and columns.
[[nodiscard]] __device__ __forceinline__ MatrixPart tile_of(const float* matrix, std::int64_t size,
                                                            std::int32_t row_tile, std::int32_t column_tile) {
  return {matrix + row_tile * kTileSide * size + column_tile * kTileSide, size, kTileSide, kTileSide};
}

__global__ void __launch_bounds__(kDriftThreads) factor(const WeighRowsParams params) {
  extern __shared__ Workplace places[];
  Workplace& place = places[0];
  const std::int32_t num_tiles = covariance_tiles(params.num_samples);
  const std::int64_t size = padded_samples(params);
  float* const matrix = params.covariance;
  for (std::int32_t p = 0; p < num_tiles; ++p) {
    for (std::int32_t i = p; i < num_tiles; ++i) {
      load_tile(tile_of(matrix, size, i, p), place.left);
      __syncthreads();
      ThreadSums sums;
      sums.for_each([&](float& sum, std::int32_t r, std::int32_t c) { sum = place.left.at[r][c]; });
      for (std::int32_t q = 0; q < p; ++q) {
        __syncthreads();
        load_tile(tile_of(matrix, size, i, q), place.left);
        load_tile(tile_of(matrix, size, p, q), place.right);
        __syncthreads();
        subtract_transposed_product(place.left, place.right, sums);
      }
      __syncthreads();
      Tile& result = i == p ? place.diagonal : place.left;
      sums.for_each([&](float& sum, std::int32_t r, std::int32_t c) { result.at[r][c] = sum; });
      __syncthreads();
      if (i == p) {
        factor_tile(result);
      } else {
        solve_transposed(place.diagonal, result);
      }
      __syncthreads();
      sums.for_each([&](float& /*sum*/, std::int32_t r, std::int32_t c) {
        const bool is_upper = i == p && c > r;
        matrix[(i * kTileSide + r) * size + p * kTileSide + c] = is_upper ? 0.0F : result.at[r][c];
      });
      __syncthreads();  // and memory that the block itself reads again
    }
  }
}

/// The block's targets and samples, first by L^T, tile of columns by tile, then by L, in the opposite order.
__global__ void __launch_bounds__(kDriftThreads) solve(const WeighRowsParams params) {
  extern __shared__ Workplace places[];
  Workplace& place = places[0];
  const std::int32_t num_tiles = covariance_tiles(params.num_samples);
  const std::int64_t size = padded_samples(params);
  const std::int32_t first_target = static_cast<std::int32_t>(blockIdx.x) * kTileSide;
  float* const weights = params.weights + std::int64_t{first_target} * params.num_samples;
  const std::int32_t num_rows = params.num_targets + params.num_samples - first_target;
  const auto own = [&](std::int32_t tile) {
    return MatrixPart{weights + tile * kTileSide, params.num_samples, num_rows, params.num_samples - tile * kTileSide};
  };
  /// Tiles of the rows that have been solved, [begin, end), with those of L in column or row p.
  const auto solve_tile = [&](std::int32_t p, std::int32_t begin, std::int32_t end, bool is_transposed) {
    const MatrixPart part = own(p);
    ThreadSums sums;
    sums.for_each([&](float& sum, std::int32_t r, std::int32_t c) { sum = part.at(r, c); });
    for (std::int32_t q = begin; q < end; ++q) {
      load_tile(own(q), place.left);
      load_tile(is_transposed ? tile_of(params.covariance, size, p, q) : tile_of(params.covariance, size, q, p),
                place.right);
      __syncthreads();
      if (is_transposed) {
        subtract_transposed_product(place.left, place.right, sums);
      } else {
        subtract_product(place.left, place.right, sums);
      }
      __syncthreads();
    }
    load_tile(tile_of(params.covariance, size, p, p), place.diagonal);
    sums.for_each([&](float& sum, std::int32_t r, std::int32_t c) { place.left.at[r][c] = sum; });
    __syncthreads();
    if (is_transposed) {
      solve_transposed(place.diagonal, place.left);
    } else {
      solve_lower(place.diagonal, place.left);
    }
    __syncthreads();
    sums.for_each([&](float& /*sum*/, std::int32_t r, std::int32_t c) {
      if (r < part.num_rows && c < part.num_columns)
        weights[r * std::int64_t{params.num_samples} + p * kTileSide + c] = place.left.at[r][c];
    });
    __syncthreads();  // and memory that the block itself reads again
  };
  for (std::int32_t p = 0; p < num_tiles; ++p) solve_tile(p, 0, p, true);
  for (std::int32_t p = num_tiles - 1; p >= 0; --p) solve_tile(p, p + 1, num_tiles, false);
}

/// One block a sample.
__global__ void __launch_bounds__(kDriftThreads) leave_one_out(const WeighRowsParams params) {
  const auto sample = static_cast<std::int32_t>(blockIdx.x);
  float* const row = params.weights + std::int64_t{params.num_targets + sample} * params.num_samples;
  const float factor = -1 / row[sample];
  __syncthreads();
  for (auto i = static_cast<std::int32_t>(threadIdx.x); i < params.num_samples; i += kDriftThreads) {
    row[i] = i == sample ? 0.0F : row[i] * factor;
  }
}

cudaError_t launch_in_workplace(void (*kernel)(WeighRowsParams), unsigned num_blocks, const WeighRowsParams& params,
                                cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Workplace)));
  if (error != cudaSuccess) return error;
  kernel<<<num_blocks, kDriftThreads, sizeof(Workplace), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_weigh_rows(const WeighRowsParams& params, cudaStream_t stream) {
  const auto sample_tiles = static_cast<unsigned>(covariance_tiles(params.num_samples));
  const auto target_tiles = static_cast<unsigned>(covariance_tiles(params.num_targets));
  find_factors<<<static_cast<unsigned>((params.num_channels - 1) / kChannelLanes + 1), kDriftThreads, 0, stream>>>(
      params);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  compare_rows<<<dim3(sample_tiles + target_tiles, sample_tiles), kDriftThreads, 0, stream>>>(params);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  error = launch_in_workplace(factor, 1, params, stream);
  if (error != cudaSuccess) return error;
  const std::int32_t num_rows = params.num_targets + params.num_samples;
  error = launch_in_workplace(solve, static_cast<unsigned>(covariance_tiles(num_rows)), params, stream);
  if (error != cudaSuccess) return error;
  leave_one_out<<<static_cast<unsigned>(params.num_samples), kDriftThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace pikv::kernels
