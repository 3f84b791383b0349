// Moves rows by what samples have drifted, weighted: a product of matrices whose result goes straight into the cache.
//
// A block has 32 rows and one head of keys or values. Weights [T + R][R] and differences [R][D] go through shared
// memory in slabs of 32 samples, rounded to TF32, and are multiplied on tensor cores. Of samples, the product is held
// against what they have drifted themselves; of targets, it is turned to each one's position and added to its row.
// Reads weights once a head and differences once a tile of rows, out of the L2 cache; each target is read and written
// once.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "drift.hpp"
#include "drift_units.cuh"
#include "kind_pairs.cuh"

namespace pikv::kernels {
namespace {

constexpr std::int32_t kTargets = kPredictedRows;
constexpr std::int32_t kSlab = 32;  // samples
constexpr std::int32_t kMmaRows = 16;
constexpr std::int32_t kMmaColumns = 8;
constexpr std::int32_t kMmaDepth = 8;
constexpr std::int32_t kRowWarps = kTargets / kMmaRows;
constexpr std::int32_t kColumnWarps = kDriftThreads / kWarpLanes / kRowWarps;
constexpr std::int32_t kMaxHeadDim = 256;
constexpr std::int32_t kColumnTiles = kMaxHeadDim / kMmaColumns / kColumnWarps;  // of a warp
/// Rows of weights begin four banks apart and rows of differences eight, so that fragments are read without conflicts.
constexpr std::int32_t kWeightRow = kSlab + 4;
[[nodiscard]] __host__ __device__ constexpr std::int32_t channel_row(std::int32_t head_dim) {
  return (head_dim + 23) / 32 * 32 + 8;
}
static_assert(channel_row(64) == 72 && channel_row(80) == 104 && channel_row(256) == 264 && channel_row(7) == 8);

[[nodiscard]] __device__ __forceinline__ float as_tf32(float value) {
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return __uint_as_float(rounded);
}

/// c += a * b: 16 x 8 of 16 x 8 and 8 x 8.
__device__ __forceinline__ void multiply_add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

/// Where a thread stands in the fragments of its warp.
struct Lane {
  std::int32_t group = static_cast<std::int32_t>(threadIdx.x) % kWarpLanes / 4;
  std::int32_t place = static_cast<std::int32_t>(threadIdx.x) % 4;
  std::int32_t first_row;   // of the warp's 16 targets
  std::int32_t first_tile;  // of its columns; the next ones are kColumnWarps apart

  __device__ Lane() {
    const std::int32_t warp = static_cast<std::int32_t>(threadIdx.x) / kWarpLanes;
    first_row = warp % kRowWarps * kMmaRows;
    first_tile = warp / kRowWarps;
  }
};

/// Which rows of the weights a block multiplies.
struct WeightRows {
  const float* first;
  std::int32_t count;  // that exist from there on
};

/// Of the block's rows and the slab's samples; zeros where there are none.
__device__ void load_slab(const MoveRowsParams& params, const WeightRows& rows, std::int32_t first_sample,
                          float* weights, float* differences) {
  const std::int32_t head_dim = params.access.head_dim;
  const std::int32_t row = channel_row(head_dim);
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < kTargets * kSlab; i += kDriftThreads) {
    const std::int32_t sample = first_sample + i % kSlab;
    const bool exists = i / kSlab < rows.count && sample < params.num_samples;
    weights[i / kSlab * kWeightRow + i % kSlab] =
        exists ? as_tf32(rows.first[std::int64_t{i / kSlab} * params.num_samples + sample]) : 0.0F;
  }
  const std::int64_t row_floats = params.access.row_floats();
  const float* const head = params.differences + std::int64_t{blockIdx.y} * head_dim;
  const std::int32_t columns = (head_dim + kMmaColumns - 1) / kMmaColumns * kMmaColumns;
  for (std::int32_t sample = static_cast<std::int32_t>(threadIdx.x) / kWarpLanes; sample < kSlab;
       sample += kDriftThreads / kWarpLanes) {
    const float* const from = head + (first_sample + sample) * row_floats;
    for (std::int32_t d = static_cast<std::int32_t>(threadIdx.x) % kWarpLanes; d < columns; d += kWarpLanes) {
      const bool exists = first_sample + sample < params.num_samples && d < head_dim;
      differences[sample * row + d] = exists ? as_tf32(from[d]) : 0.0F;
    }
  }
}

/// rows * differences of the block's head, into tile: [kTargets][channel_row()]. shared: [shared_floats()], of which
/// the tile is the first part. Every thread of the block calls it.
__device__ void predict(const MoveRowsParams& params, const WeightRows& rows, float* shared) {
  const std::int32_t row = channel_row(params.access.head_dim);
  float* const tile = shared;  // differences first, then what is predicted
  static_assert(kSlab == kTargets);
  float* const weights = tile + kSlab * row;
  const std::int32_t num_tiles = (params.access.head_dim + kMmaColumns - 1) / kMmaColumns;
  const Lane lane;
  float sums[kColumnTiles][4] = {};
  for (std::int32_t sample = 0; sample < params.num_samples; sample += kSlab) {
    load_slab(params, rows, sample, weights, tile);
    __syncthreads();
#pragma unroll
    for (std::int32_t k = 0; k < kSlab; k += kMmaDepth) {
      const float* const left = weights + (lane.first_row + lane.group) * kWeightRow + k + lane.place;
      const float a[4] = {left[0], left[8 * kWeightRow], left[4], left[8 * kWeightRow + 4]};
      const float* const right = tile + (k + lane.place) * row + lane.group;
#pragma unroll
      for (std::int32_t n = 0; n < kColumnTiles; ++n) {
        const std::int32_t column_tile = lane.first_tile + n * kColumnWarps;
        if (column_tile >= num_tiles) continue;  // the same for the whole warp
        const float b[2] = {right[column_tile * kMmaColumns], right[column_tile * kMmaColumns + 4 * row]};
        multiply_add(sums[n], a, b);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (std::int32_t n = 0; n < kColumnTiles; ++n) {
    const std::int32_t column_tile = lane.first_tile + n * kColumnWarps;
    if (column_tile >= num_tiles) continue;
    float* const upper = tile + (lane.first_row + lane.group) * row + column_tile * kMmaColumns + 2 * lane.place;
    upper[0] = sums[n][0];
    upper[1] = sums[n][1];
    upper[8 * row] = sums[n][2];
    upper[8 * row + 1] = sums[n][3];
  }
  __syncthreads();
}

[[nodiscard]] std::size_t shared_bytes(const MoveRowsParams& params) {
  return static_cast<std::size_t>(kSlab * channel_row(params.access.head_dim) + kTargets * kWeightRow) * sizeof(float);
}

[[nodiscard]] __device__ __forceinline__ float gain_of(const MoveRowsParams& params, const DriftHead& at) {
  return at.is_key ? params.key_gain : params.value_gain;
}

/// One block a tile of samples and a head: how what the others predict agrees with what they are.
__global__ void __launch_bounds__(kDriftThreads) hold_against_samples(const MoveRowsParams params) {
  extern __shared__ float shared[];
  __shared__ Agreement warps[kDriftThreads / kWarpLanes];
  const RowAccess& access = params.access;
  if (gain_of(params, head_of_block(access)) == 0) return;
  const std::int32_t first = static_cast<std::int32_t>(blockIdx.x) * kTargets;
  const std::int32_t count = min(kTargets, params.num_samples - first);
  predict(params, {params.weights + std::int64_t{params.num_targets + first} * params.num_samples, count}, shared);
  const std::int32_t row = channel_row(access.head_dim);
  const std::int64_t row_floats = access.row_floats();
  const float* const head = params.differences + first * row_floats + std::int64_t{blockIdx.y} * access.head_dim;
  const std::int32_t warp = static_cast<std::int32_t>(threadIdx.x) / kWarpLanes;
  Agreement sum{0, 0};
  for (std::int32_t i = warp; i < count; i += kDriftThreads / kWarpLanes) {
    for (std::int32_t d = static_cast<std::int32_t>(threadIdx.x) % kWarpLanes; d < access.head_dim; d += kWarpLanes) {
      const float predicted = shared[i * row + d];
      sum.with_drift = __fmaf_rn(predicted, head[i * row_floats + d], sum.with_drift);
      sum.with_itself = __fmaf_rn(predicted, predicted, sum.with_itself);
    }
  }
#pragma unroll
  for (int apart = kWarpLanes / 2; apart > 0; apart /= 2) {
    sum.with_drift += __shfl_xor_sync(0xFFFFFFFFU, sum.with_drift, apart);
    sum.with_itself += __shfl_xor_sync(0xFFFFFFFFU, sum.with_itself, apart);
  }
  if (threadIdx.x % kWarpLanes == 0) warps[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  Agreement all{0, 0};
  for (const Agreement& part : warps) {
    all.with_drift += part.with_drift;
    all.with_itself += part.with_itself;
  }
  params.agreements[blockIdx.x * gridDim.y + blockIdx.y] = all;
}

/// How much of what is predicted counts: in every thread the same.
[[nodiscard]] __device__ float share_of_block(const MoveRowsParams& params) {
  Agreement all{0, 0};
  for (std::int32_t tile = 0; tile < agreement_tiles(params.num_samples); ++tile) {
    const Agreement part = params.agreements[static_cast<unsigned>(tile) * gridDim.y + blockIdx.y];
    all.with_drift += part.with_drift;
    all.with_itself += part.with_itself;
  }
  // 0 also where there is no number.
  return all.with_drift > 0 ? fminf(all.with_drift / all.with_itself, 1.0F) : 0.0F;
}

template <class How>
__global__ void __launch_bounds__(kDriftThreads) move_rows(const MoveRowsParams params) {
  extern __shared__ float shared[];
  const RowAccess& access = params.access;
  const DriftHead at = head_of_block(access);
  float factor = gain_of(params, at);
  if (factor == 0) return;
  factor *= share_of_block(params);
  if (factor == 0) return;
  const std::int32_t first_target = static_cast<std::int32_t>(blockIdx.x) * kTargets;
  const std::int32_t count = min(kTargets, params.num_targets - first_target);
  predict(params, {params.weights + std::int64_t{first_target} * params.num_samples, count}, shared);

  const Stripes stripes = stripes_of(access, at);
  if (!stripes.has_unit) return;
  const typename How::Unit unit = How::unit_of(access, at, stripes.unit);
  const std::int32_t row = channel_row(access.head_dim);
  for (auto i = static_cast<std::int32_t>(stripes.own); i < count; i += static_cast<std::int32_t>(stripes.count)) {
    const std::int32_t target = params.target_rows[first_target + i];
    if (!in_range(target, access.num_rows)) continue;
    // The view may be written; addresses are worked out for reading and writing alike.
    auto* const cached_row =
        const_cast<std::byte*>(head_address(access.cached, at, static_cast<std::uint32_t>(target)));
    if (cached_row == nullptr) continue;
    typename How::Values values;
    typename How::Values shift;
    How::load_cached(access, at, unit, cached_row, values);
#pragma unroll
    for (int c = 0; c < How::kChannels; ++c) {
      shift.first[c] = factor * shared[i * row + static_cast<std::int32_t>(unit.first_channel) + c];
      shift.second[c] = factor * shared[i * row + static_cast<std::int32_t>(unit.second_channel) + c];
    }
    if (unit.turns) How::turn_unit(access, unit, target, false, shift);
#pragma unroll
    for (int c = 0; c < How::kChannels; ++c) {
      values.first[c] += shift.first[c];
      values.second[c] += shift.second[c];
    }
    How::store_cached(access, at, unit, cached_row, values);
  }
}

[[nodiscard]] dim3 grid_of(const MoveRowsParams& params, std::int32_t num_rows) {
  return {static_cast<unsigned>((num_rows - 1) / kTargets + 1), 2 * static_cast<unsigned>(params.access.num_kv_heads)};
}

template <class How>
cudaError_t launch(const MoveRowsParams& params, cudaStream_t stream) {
  move_rows<How><<<grid_of(params, params.num_targets), kDriftThreads, shared_bytes(params), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_move_rows(const MoveRowsParams& params, cudaStream_t stream) {
  hold_against_samples<<<grid_of(params, params.num_samples), kDriftThreads, shared_bytes(params), stream>>>(params);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  if (!params.access.is_vectorizable) return launch<ByElements>(params, stream);
  // Fresh rows are not read: what type they would have makes no difference.
  return launch_for_cached<ByVectors, SourceKind::kFloat32>(params.access.cached.kind,
                                                            [&]<class How>() { return launch<How>(params, stream); });
}

}  // namespace pikv::kernels
