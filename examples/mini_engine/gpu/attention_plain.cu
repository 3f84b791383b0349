#include <cuda_bf16.h>

#include "attention_kernels.hpp"
#include "launch.cuh"
#include "numbers.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kKeysAtOnce = 4;  // whose reads and sums a warp has under way together
constexpr int kMostHeads = 4;   // query heads that a block takes, of one KV head

__device__ float warp_sum(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0U, value, apart);
  return value;
}

/// A softmax under way: the largest score, the sum of exp(score - largest), and this lane's part of the weighted
/// values.
template <int kDims>
struct Partial {
  float largest = -INFINITY;
  float sum = 0;
  float values[kDims] = {};
};

/// A block a row and kMostHeads query heads of one KV head, which read K and V once for all of them. Its warps take
/// some keys each in turn, a lane every 32nd of up to 32 * kDims channels; what they have is merged in the order of the
/// warps, so that the same call gives the same bits.
template <class T, int kDims>
__global__ __launch_bounds__(kWarps * 32) void attend_plainly(const AttentionParams params) {
  __shared__ float warp_largest[kMostHeads][kWarps];
  __shared__ float warp_sums[kMostHeads][kWarps];
  __shared__ float warp_values[kMostHeads][kWarps][kDims * 32];
  let_next_kernel_start();
  wait_for_kernels_before();
  const HeadSizes& sizes = params.sizes;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const auto warp = static_cast<std::int32_t>(threadIdx.x / 32);
  const std::int32_t group = sizes.num_heads / sizes.num_kv_heads;
  const std::int32_t parts = (group + kMostHeads - 1) / kMostHeads;
  const std::int32_t kv_head = static_cast<std::int32_t>(blockIdx.y) / parts;
  const std::int32_t first_of_group = static_cast<std::int32_t>(blockIdx.y) % parts * kMostHeads;
  const std::int32_t first_head = kv_head * group + first_of_group;
  const std::int32_t num_heads = min(kMostHeads, group - first_of_group);
  const AttentionItem item = params.items[blockIdx.x];
  if (item.num_rows == 0) return;
  const std::int64_t row = item.first_row;
  const std::int32_t position = params.batch.positions[row];
  const std::int32_t* const documents =
      item.first_document < 0 ? nullptr : params.batch.documents + item.first_document;
  const float factor = rsqrtf(static_cast<float>(sizes.head_dim));
  const CacheLayer& cache = params.cache;

  float queries[kMostHeads][kDims];
  const T* const query_row =
      static_cast<const T*>(params.queries) + row * params.query_stride + first_head * sizes.head_dim;
#pragma unroll
  for (int head = 0; head < kMostHeads; ++head) {
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      const bool is_there = head < num_heads && lane + 32 * i < sizes.head_dim;
      queries[head][i] = is_there ? load(query_row + head * sizes.head_dim + lane + 32 * i) * factor : 0.0F;
    }
  }
  Partial<kDims> partials[kMostHeads];
  for (std::int32_t first = warp * kKeysAtOnce; first <= position; first += kWarps * kKeysAtOnce) {
    float keys[kKeysAtOnce][kDims];
    float values[kKeysAtOnce][kDims];
    bool is_seen[kKeysAtOnce];
#pragma unroll
    for (int k = 0; k < kKeysAtOnce; ++k) {
      const std::int32_t key = min(first + k, position);
      is_seen[k] = first + k <= position &&
                   (documents == nullptr || documents[key] == documents[position] || documents[position] < 0);
      const std::int64_t page = params.batch.pages[item.first_page + key / cache.page_size];
      const T* const key_row = static_cast<const T*>(cache.data) + page * cache.page_stride +
                               key % cache.page_size * cache.token_stride + kv_head * cache.head_stride;
#pragma unroll
      for (int i = 0; i < kDims; ++i) {
        // Nobody may have written what is not seen.
        const bool is_there = is_seen[k] && lane + 32 * i < sizes.head_dim;
        keys[k][i] = is_there ? load(key_row + lane + 32 * i) : 0.0F;
        values[k][i] = is_there ? load(key_row + cache.value_offset + lane + 32 * i) : 0.0F;
      }
    }
#pragma unroll
    for (int head = 0; head < kMostHeads; ++head) {
      if (head >= num_heads) break;
      Partial<kDims>& partial = partials[head];
      float scores[kKeysAtOnce];
      float new_largest = partial.largest;
#pragma unroll
      for (int k = 0; k < kKeysAtOnce; ++k) {
        float score = 0;
#pragma unroll
        for (int i = 0; i < kDims; ++i) score += queries[head][i] * keys[k][i];
        score = warp_sum(score);
        scores[k] = is_seen[k] ? score : -INFINITY;
        new_largest = fmaxf(new_largest, scores[k]);
      }
      if (new_largest == -INFINITY) continue;
      const float shrink = expf(partial.largest - new_largest);
      partial.largest = new_largest;
      partial.sum *= shrink;
#pragma unroll
      for (int i = 0; i < kDims; ++i) partial.values[i] *= shrink;
#pragma unroll
      for (int k = 0; k < kKeysAtOnce; ++k) {
        const float weight = expf(scores[k] - new_largest);
        partial.sum += weight;
#pragma unroll
        for (int i = 0; i < kDims; ++i) partial.values[i] += weight * values[k][i];
      }
    }
  }
#pragma unroll
  for (int head = 0; head < kMostHeads; ++head) {
    if (lane == 0) {
      warp_largest[head][warp] = partials[head].largest;
      warp_sums[head][warp] = partials[head].sum;
    }
#pragma unroll
    for (int i = 0; i < kDims; ++i) warp_values[head][warp][lane + 32 * i] = partials[head].values[i];
  }
  __syncthreads();

  T* const out = static_cast<T*>(params.out) + (row * sizes.num_heads + first_head) * sizes.head_dim;
  for (auto i = static_cast<std::int32_t>(threadIdx.x); i < num_heads * sizes.head_dim; i += kWarps * 32) {
    const std::int32_t head = i / sizes.head_dim;
    float largest = -INFINITY;
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, warp_largest[head][w]);
    float sum = 0;
    float value = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = expf(warp_largest[head][w] - largest);  // 0 for a warp that had no key
      sum += weight * warp_sums[head][w];
      value += weight * warp_values[head][w][i % sizes.head_dim];
    }
    store(out + i, value / sum);
  }
}

template <class T>
auto kernel_for(std::int32_t head_dim) {
  return head_dim <= 64 ? attend_plainly<T, 2> : head_dim <= 128 ? attend_plainly<T, 4> : attend_plainly<T, 8>;
}

}  // namespace

void launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream) {
  const std::int32_t group = params.sizes.num_heads / params.sizes.num_kv_heads;
  const std::int32_t parts = (group + kMostHeads - 1) / kMostHeads;
  const dim3 grid(static_cast<unsigned>(params.num_items), static_cast<unsigned>(params.sizes.num_kv_heads * parts));
  const std::int32_t head_dim = params.sizes.head_dim;
  launch("attention",
         precision == Precision::kFloat32 ? kernel_for<float>(head_dim) : kernel_for<__nv_bfloat16>(head_dim), grid,
         kWarps * 32, 0, stream, params);
}

}  // namespace mini_engine::gpu
