// Attention weights summed by key and by segment, without ever storing one.
//
// Products of queries and keys are computed anew by each of up to three kernels, in tiles of 64 by 64:
//   find_softmax     grid (tiles of vectors, splits of the keys, KV heads): maximum and sum of each vector's powers
//   weigh_keys       grid (tiles of keys, splits of the vectors, KV heads): sums of weights down the columns
//   weigh_segments   grid as find_softmax: sums of weights along the rows, segment by segment
// Tiles that no vector attends are left out. Splits are summed by kernels of their own, in their order: no atomics, so
// the same call gives the same bits. A block reads its fixed tile once and every other tile once; tiles are shared by
// all query heads of a KV head.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "attention_tile.cuh"
#include "score.hpp"

namespace pikv::kernels {
namespace {

/// Elements of one tile of either kind in shared memory.
template <class Arithmetic>
[[nodiscard]] __host__ __device__ constexpr std::int32_t tile_elements(std::int32_t head_dim) {
  return kTileKeys * Arithmetic::row_elements(head_dim);
}

template <class Arithmetic>
struct Tiles {
  typename Arithmetic::Storage* vectors;
  typename Arithmetic::Storage* keys;
  float* rest;  ///< what a kernel has asked for besides
};

template <class Arithmetic>
[[nodiscard]] __device__ Tiles<Arithmetic> shared_tiles(std::int32_t head_dim) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* const vectors = reinterpret_cast<typename Arithmetic::Storage*>(memory);
  auto* const keys = vectors + tile_elements<Arithmetic>(head_dim);
  return {vectors, keys, reinterpret_cast<float*>(keys + tile_elements<Arithmetic>(head_dim))};
}

/// Of the four products at [n]: which key.
[[nodiscard]] __device__ __forceinline__ std::int32_t key_of(std::int32_t key_tile, int n, int i) {
  return key_tile * kTileKeys + 8 * n + 2 * place_of_thread() + i % 2;
}

/// The two vectors whose products this thread holds.
struct ThreadVectors {
  std::int64_t vector[2];
  std::int32_t last[2];  ///< the last key that each attends
};

[[nodiscard]] __device__ __forceinline__ ThreadVectors vectors_of_thread(const AttentionParams& params,
                                                                         std::int32_t vector_tile) {
  ThreadVectors at;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    at.vector[half] =
        std::int64_t{vector_tile} * kTileVectors + warp_of_thread() * kWarpVectors + group_of_thread() + 8 * half;
    at.last[half] = last_key(params, at.vector[half]);
  }
  return at;
}

/// Tiles of keys that a block of one split has to look at.
struct KeyTiles {
  std::int32_t begin;
  std::int32_t end;
};

[[nodiscard]] __device__ __forceinline__ KeyTiles key_tiles_of_split(const AttentionParams& params,
                                                                     std::int32_t vector_tile, std::int32_t split) {
  const std::int64_t num_tiles = num_key_tiles(params);
  const auto begin = static_cast<std::int32_t>(num_tiles * split / params.num_key_splits);
  const auto end = static_cast<std::int32_t>(num_tiles * (split + 1) / params.num_key_splits);
  const std::int32_t last = last_key_of_tile(params, vector_tile);
  const std::int32_t attended = last < 0 ? 0 : last / kTileKeys + 1;
  return {begin, end < attended ? end : attended};
}

constexpr float kMinusInfinity = -INFINITY;

template <class Arithmetic>
__global__ void __launch_bounds__(kThreads) find_softmax(const AttentionParams params) {
  const auto vector_tile = static_cast<std::int32_t>(blockIdx.x);
  const auto split = static_cast<std::int32_t>(blockIdx.y);
  const auto head = static_cast<std::int32_t>(blockIdx.z);
  const Tiles<Arithmetic> tiles = shared_tiles<Arithmetic>(params.head_dim);
  load_vectors<Arithmetic>(tiles.vectors, params, vector_tile, head);
  const ThreadVectors at = vectors_of_thread(params, vector_tile);
  float maximum[2] = {kMinusInfinity, kMinusInfinity};
  float sum[2] = {0, 0};  // of this thread's keys
  const KeyTiles range = key_tiles_of_split(params, vector_tile, split);
  for (std::int32_t key_tile = range.begin; key_tile < range.end; ++key_tile) {
    load_keys<Arithmetic>(tiles.keys, params, key_tile, head);
    __syncthreads();
    Products products;
    Arithmetic::multiply(tiles.vectors, tiles.keys, params.head_dim, products);
    float most[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < kColumnBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool attends = key_of(key_tile, n, i) <= at.last[i / 2];
        products[n][i] = attends ? products[n][i] * params.query_factor : kMinusInfinity;
        most[i / 2] = fmaxf(most[i / 2], products[n][i]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // The four threads of a group hold one vector's products.
      most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFFU, most[half], 1));
      most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFFU, most[half], 2));
      const float base = most[half] == kMinusInfinity ? 0 : most[half];  // nothing attended so far: all powers are 0
      float added = 0;
#pragma unroll
      for (int n = 0; n < kColumnBlocks; ++n) {
        added += exp2f(products[n][2 * half] - base);
        added += exp2f(products[n][2 * half + 1] - base);
      }
      sum[half] = sum[half] * exp2f(maximum[half] - base) + added;
      maximum[half] = most[half];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xFFFFFFFFU, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xFFFFFFFFU, sum[half], 2);
    if (place_of_thread() != 0 || at.vector[half] >= params.num_vectors) continue;
    const std::int64_t index = std::int64_t{head} * params.num_vectors + at.vector[half];
    params.softmax_parts[index * params.num_key_splits + split] = {maximum[half], sum[half]};
  }
}

[[nodiscard]] __device__ __forceinline__ std::int64_t item_index() {
  return std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
}

/// One thread a vector of all KV heads.
__global__ void __launch_bounds__(kThreads) merge_softmax(const AttentionParams params) {
  const std::int64_t index = item_index();
  if (index >= std::int64_t{params.num_kv_heads} * params.num_vectors) return;
  const Softmax* const parts = params.softmax_parts + index * params.num_key_splits;
  float maximum = kMinusInfinity;
  for (std::int32_t split = 0; split < params.num_key_splits; ++split) maximum = fmaxf(maximum, parts[split].maximum);
  float sum = 0;
  for (std::int32_t split = 0; split < params.num_key_splits; ++split) {
    if (parts[split].maximum == kMinusInfinity && parts[split].factor == 0) continue;
    sum += parts[split].factor * exp2f(parts[split].maximum - maximum);
  }
  params.softmax[index] = {maximum, 1.0F / sum};
}

/// Products to weights; 0 where a vector does not attend a key.
__device__ __forceinline__ void weigh(const AttentionParams& params, const ThreadVectors& at, std::int32_t head,
                                      std::int32_t key_tile, Products& products) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Softmax softmax{0, 0};
    if (at.last[half] >= 0) softmax = params.softmax[std::int64_t{head} * params.num_vectors + at.vector[half]];
#pragma unroll
    for (int n = 0; n < kColumnBlocks; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        const float power = exp2f(products[n][i] * params.query_factor - softmax.maximum);
        products[n][i] = key_of(key_tile, n, i) <= at.last[half] ? power * softmax.factor : 0.0F;
      }
    }
  }
}

template <class Arithmetic>
__global__ void __launch_bounds__(kThreads) weigh_keys(const AttentionParams params) {
  const auto key_tile = static_cast<std::int32_t>(blockIdx.x);
  const auto split = static_cast<std::int32_t>(blockIdx.y);
  const auto head = static_cast<std::int32_t>(blockIdx.z);
  const Tiles<Arithmetic> tiles = shared_tiles<Arithmetic>(params.head_dim);
  load_keys<Arithmetic>(tiles.keys, params, key_tile, head);
  float sums[kColumnBlocks][2] = {};
  const std::int32_t num_tiles = num_vector_tiles(params);
  // Splits take turns, since later vectors attend more keys.
  for (std::int32_t vector_tile = split; vector_tile < num_tiles; vector_tile += params.num_vector_splits) {
    if (last_key_of_tile(params, vector_tile) < key_tile * kTileKeys) continue;  // the same for the whole block
    load_vectors<Arithmetic>(tiles.vectors, params, vector_tile, head);
    __syncthreads();
    const ThreadVectors at = vectors_of_thread(params, vector_tile);
    Products products;
    Arithmetic::multiply(tiles.vectors, tiles.keys, params.head_dim, products);
    weigh(params, at, head, key_tile, products);
#pragma unroll
    for (int n = 0; n < kColumnBlocks; ++n) {
      sums[n][0] += products[n][0] + products[n][2];
      sums[n][1] += products[n][1] + products[n][3];
    }
  }
  __shared__ float warp_sums[kThreads / kWarpLanes][kTileKeys];
#pragma unroll
  for (int n = 0; n < kColumnBlocks; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = sums[n][i];
#pragma unroll
      for (int apart = 4; apart < kWarpLanes; apart *= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, apart);
      if (group_of_thread() == 0) warp_sums[warp_of_thread()][8 * n + 2 * place_of_thread() + i] = sum;
    }
  }
  __syncthreads();
  const auto column = static_cast<std::int32_t>(threadIdx.x);
  const std::int64_t key = std::int64_t{key_tile} * kTileKeys + column;
  if (column >= kTileKeys || key >= params.num_keys) return;
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarpLanes; ++warp) sum += warp_sums[warp][column];
  params.key_parts[(std::int64_t{head} * params.num_vector_splits + split) * params.num_keys + key] = sum;
}

/// One thread a key.
__global__ void __launch_bounds__(kThreads) add_key_scores(const AttentionParams params) {
  const std::int64_t key = item_index();
  if (key >= params.num_keys) return;
  float sum = 0;
  const std::int64_t num_parts = std::int64_t{params.num_kv_heads} * params.num_vector_splits;
#pragma unroll 4
  for (std::int64_t part = 0; part < num_parts; ++part) sum += params.key_parts[part * params.num_keys + key];
  params.key_scores[key] += params.share * sum;
}

constexpr std::int32_t kHalves = kThreads / kTileVectors;  // threads of a vector, each with half of the keys
constexpr std::int32_t kWeightRow = kTileKeys + 1;         // odd, so that a column is read without conflicts
constexpr std::int32_t kSegmentFloats = kTileVectors * kWeightRow + kHalves * kLaunchSegments * kTileVectors;

template <class Arithmetic>
__global__ void __launch_bounds__(kThreads) weigh_segments(const AttentionParams params) {
  const auto vector_tile = static_cast<std::int32_t>(blockIdx.x);
  const auto split = static_cast<std::int32_t>(blockIdx.y);
  const auto head = static_cast<std::int32_t>(blockIdx.z);
  const Tiles<Arithmetic> tiles = shared_tiles<Arithmetic>(params.head_dim);
  float* const weights = tiles.rest;                        // [kTileVectors][kWeightRow]
  float* const bins = weights + kTileVectors * kWeightRow;  // [kHalves][kLaunchSegments][kTileVectors]
  __shared__ std::uint32_t segments[kTileKeys];
  const auto num_segments =
      static_cast<std::uint32_t>(min(kLaunchSegments, params.num_segments - params.first_segment));
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  const std::int32_t own_vector = thread % kTileVectors;
  const std::int32_t half = thread / kTileVectors;
  float* const own_bins = bins + half * kLaunchSegments * kTileVectors + own_vector;
  for (std::uint32_t segment = 0; segment < num_segments; ++segment) own_bins[segment * kTileVectors] = 0;

  load_vectors<Arithmetic>(tiles.vectors, params, vector_tile, head);
  const ThreadVectors at = vectors_of_thread(params, vector_tile);
  const KeyTiles range = key_tiles_of_split(params, vector_tile, split);
  for (std::int32_t key_tile = range.begin; key_tile < range.end; ++key_tile) {
    load_keys<Arithmetic>(tiles.keys, params, key_tile, head);  // and waits for the sums of the tile before
    if (thread < kTileKeys) {
      const std::int64_t key = std::int64_t{key_tile} * kTileKeys + thread;
      // As unsigned numbers, what is not of this launch is too large, whatever the array holds.
      segments[thread] = key < params.num_keys ? static_cast<std::uint32_t>(params.key_segments[key]) -
                                                     static_cast<std::uint32_t>(params.first_segment)
                                               : num_segments;
    }
    __syncthreads();
    Products products;
    Arithmetic::multiply(tiles.vectors, tiles.keys, params.head_dim, products);
    weigh(params, at, head, key_tile, products);
    const std::int32_t upper = warp_of_thread() * kWarpVectors + group_of_thread();
#pragma unroll
    for (int n = 0; n < kColumnBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[(upper + 8 * (i / 2)) * kWeightRow + 8 * n + 2 * place_of_thread() + i % 2] = products[n][i];
      }
    }
    __syncthreads();
    // Neighbouring keys are mostly of one segment: they are summed before they are added to it.
    float run = 0;
    const std::int32_t begin = half * (kTileKeys / kHalves);
    std::uint32_t segment = segments[begin];
    for (std::int32_t key = begin; key < begin + kTileKeys / kHalves; ++key) {
      if (segments[key] != segment) {
        if (segment < num_segments) own_bins[segment * kTileVectors] += run;
        segment = segments[key];
        run = 0;
      }
      run += weights[own_vector * kWeightRow + key];
    }
    if (segment < num_segments) own_bins[segment * kTileVectors] += run;
  }
  __syncthreads();
  const std::int64_t vector = std::int64_t{vector_tile} * kTileVectors + own_vector;
  if (half != 0 || vector >= params.num_vectors) return;
  float* const out =
      params.segment_parts +
      ((std::int64_t{split} * params.num_kv_heads + head) * params.num_vectors + vector) * params.num_segments +
      params.first_segment;
  for (std::uint32_t s = 0; s < num_segments; ++s) {
    out[s] = own_bins[s * kTileVectors] + own_bins[(kLaunchSegments + s) * kTileVectors];
  }
}

/// One thread a row and segment.
__global__ void __launch_bounds__(kThreads) add_segment_scores(const AttentionParams params) {
  const std::int64_t index = item_index();
  if (index >= std::int64_t{params.num_rows} * params.num_segments) return;
  const std::int64_t row = index / params.num_segments;
  const std::int64_t segment = index - row * params.num_segments;
  const std::int64_t group = params.group.value;
  const std::int64_t num_parts = std::int64_t{params.num_key_splits} * params.num_kv_heads;
  float sum = 0;
  for (std::int64_t part = 0; part < num_parts; ++part) {
    const float* const values =
        params.segment_parts + (part * params.num_vectors + row * group) * params.num_segments + segment;
#pragma unroll 4
    for (std::int64_t q = 0; q < group; ++q) sum += values[q * params.num_segments];
  }
  params.segment_scores[index] += params.share * sum;
}

[[nodiscard]] unsigned num_blocks(std::int64_t num_items) {
  return static_cast<unsigned>((num_items + kThreads - 1) / kThreads);
}

/// Starts a kernel that needs two tiles, and more.
template <class Arithmetic>
cudaError_t launch_tiles(void (*kernel)(AttentionParams), dim3 grid, std::int32_t more_floats,
                         const AttentionParams& params, cudaStream_t stream) {
  const std::size_t tile_bytes =
      static_cast<std::size_t>(tile_elements<Arithmetic>(params.head_dim)) * sizeof(typename Arithmetic::Storage);
  const std::size_t shared_bytes = 2 * tile_bytes + static_cast<std::size_t>(more_floats) * sizeof(float);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  kernel<<<grid, kThreads, shared_bytes, stream>>>(params);
  return cudaGetLastError();
}

template <class Arithmetic>
cudaError_t launch(AttentionParams params, cudaStream_t stream) {
  const auto vector_tiles = static_cast<unsigned>(num_vector_tiles(params));
  const auto key_tiles = static_cast<unsigned>(num_key_tiles(params));
  const auto num_heads = static_cast<unsigned>(params.num_kv_heads);
  const dim3 by_vectors(vector_tiles, static_cast<unsigned>(params.num_key_splits), num_heads);
  cudaError_t error = launch_tiles<Arithmetic>(find_softmax<Arithmetic>, by_vectors, 0, params, stream);
  if (error != cudaSuccess) return error;
  merge_softmax<<<num_blocks(std::int64_t{params.num_kv_heads} * params.num_vectors), kThreads, 0, stream>>>(params);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  if (params.key_scores != nullptr) {
    const dim3 by_keys(key_tiles, static_cast<unsigned>(params.num_vector_splits), num_heads);
    error = launch_tiles<Arithmetic>(weigh_keys<Arithmetic>, by_keys, 0, params, stream);
    if (error != cudaSuccess) return error;
    add_key_scores<<<num_blocks(params.num_keys), kThreads, 0, stream>>>(params);
    error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  if (params.segment_scores == nullptr) return cudaSuccess;
  for (params.first_segment = 0;;) {
    error = launch_tiles<Arithmetic>(weigh_segments<Arithmetic>, by_vectors, kSegmentFloats, params, stream);
    if (error != cudaSuccess) return error;
    if (params.num_segments - params.first_segment <= kLaunchSegments) break;
    params.first_segment += kLaunchSegments;
  }
  add_segment_scores<<<num_blocks(std::int64_t{params.num_rows} * params.num_segments), kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_attention(const AttentionParams& params, cudaStream_t stream) {
  if (params.query_kind == params.keys.kind && params.query_kind == SourceKind::kBFloat16) {
    return launch<TensorCores<SourceKind::kBFloat16>>(params, stream);
  }
  if (params.query_kind == params.keys.kind && params.query_kind == SourceKind::kFloat16) {
    return launch<TensorCores<SourceKind::kFloat16>>(params, stream);
  }
  return launch<Scalars>(params, stream);
}

}  // namespace pikv::kernels
