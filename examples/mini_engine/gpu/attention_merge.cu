#include <cuda_bf16.h>

#include "attention_kernels.hpp"
#include "launch.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kThreads = 128;

/// A block a row and query head. Some lanes, four channels each, take one split; groups of them take splits in turn, so
/// that all reads are under way at once.
template <int kHeadDim>
__global__ __launch_bounds__(kThreads) void merge_splits(const AttentionParams params) {
  constexpr int kLanes = kHeadDim / 4;
  constexpr int kGroups = kThreads / kLanes;
  __shared__ float4 group_sums[kGroups][kLanes];
  __shared__ float group_weights[kGroups];
  let_next_kernel_start();
  wait_for_kernels_before();
  const std::int64_t num_heads = params.num_rows * params.sizes.num_heads;
  const std::int64_t head = blockIdx.x;
  const std::int32_t num_splits = params.row_splits[head / params.sizes.num_heads];
  if (num_splits == 1) return;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;

  float lses[kMaxSplits / kGroups];
  float4 outputs[kMaxSplits / kGroups];
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kMaxSplits / kGroups; ++i) {
    const int split = group + i * kGroups;
    if (split >= num_splits) break;
    lses[i] = params.partial_lses[split * num_heads + head];
    outputs[i] = reinterpret_cast<const float4*>(params.partial_outputs + (split * num_heads + head) * kHeadDim)[lane];
  }
  for (int split = 0; split < num_splits; ++split) {
    largest = fmaxf(largest, params.partial_lses[split * num_heads + head]);
  }
  float4 sum{};
  float weight_sum = 0;
#pragma unroll
  for (int i = 0; i < kMaxSplits / kGroups; ++i) {
    if (group + i * kGroups >= num_splits) break;
    const float weight = __expf(lses[i] - largest);  // 0 for a split whose keys the row does not see
    weight_sum += weight;
    sum.x += weight * outputs[i].x;
    sum.y += weight * outputs[i].y;
    sum.z += weight * outputs[i].z;
    sum.w += weight * outputs[i].w;
  }
  group_sums[group][lane] = sum;
  if (lane == 0) group_weights[group] = weight_sum;
  __syncthreads();
  if (group > 0) return;
#pragma unroll
  for (int other = 1; other < kGroups; ++other) {
    const float4 more = group_sums[other][lane];
    sum.x += more.x;
    sum.y += more.y;
    sum.z += more.z;
    sum.w += more.w;
    weight_sum += group_weights[other];
  }
  auto* const out = static_cast<__nv_bfloat162*>(params.out) + head * (kHeadDim / 2) + lane * 2;
  out[0] = __floats2bfloat162_rn(sum.x / weight_sum, sum.y / weight_sum);
  out[1] = __floats2bfloat162_rn(sum.z / weight_sum, sum.w / weight_sum);
}

}  // namespace

void launch_attention_merge(const AttentionParams& params, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(params.num_rows * params.sizes.num_heads);
  launch("attention merge", params.sizes.head_dim == 128 ? merge_splits<128> : merge_splits<64>, blocks, kThreads, 0,
         stream, params);
}

}  // namespace mini_engine::gpu
