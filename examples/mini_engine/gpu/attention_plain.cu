#include <cuda_bf16.h>

#include "attention_kernels.hpp"
#include "launch.cuh"
#include "numbers.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kKeysAtOnce = 4;   // whose reads and sums a warp has under way together
constexpr int kMaxLaneDims = 8;  // of heads up to 256

__device__ float warp_sum(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0U, value, apart);
  return value;
}

/// A softmax under way: the largest score, the sum of exp(score - largest), and this lane's part of the weighted
/// values.
struct Partial {
  float largest = -INFINITY;
  float sum = 0;
  float values[kMaxLaneDims] = {};
};

/// A block a row and query head. Its warps take some keys each in turn, a lane every 32nd channel; what they have is
/// merged in the order of the warps, so that the same call gives the same bits.
template <class T>
__global__ __launch_bounds__(kWarps * 32) void attend_plainly(const AttentionParams params) {
  __shared__ float warp_largest[kWarps];
  __shared__ float warp_sums[kWarps];
  __shared__ float warp_values[kWarps][kMaxLaneDims * 32];
  let_next_kernel_start();
  wait_for_kernels_before();
  const HeadSizes& sizes = params.sizes;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const auto warp = static_cast<std::int32_t>(threadIdx.x / 32);
  const auto head = static_cast<std::int32_t>(blockIdx.y);
  const AttentionItem item = params.items[blockIdx.x];
  if (item.num_rows == 0) return;
  const std::int64_t row = item.first_row;
  const std::int32_t position = params.batch.positions[row];
  const std::int32_t* const documents =
      item.first_document < 0 ? nullptr : params.batch.documents + item.first_document;
  const std::int32_t kv_head = head / (sizes.num_heads / sizes.num_kv_heads);
  const float factor = rsqrtf(static_cast<float>(sizes.head_dim));
  const CacheLayer& cache = params.cache;

  float query[kMaxLaneDims];
  const T* const query_row = static_cast<const T*>(params.queries) + row * params.query_stride + head * sizes.head_dim;
#pragma unroll
  for (int i = 0; i < kMaxLaneDims; ++i) {
    query[i] = lane + 32 * i < sizes.head_dim ? load(query_row + lane + 32 * i) * factor : 0.0F;
  }
  Partial partial;
  for (std::int32_t first = warp * kKeysAtOnce; first <= position; first += kWarps * kKeysAtOnce) {
    const T* key_rows[kKeysAtOnce];
    float scores[kKeysAtOnce];
    float new_largest = partial.largest;
#pragma unroll
    for (int k = 0; k < kKeysAtOnce; ++k) {
      const std::int32_t key = min(first + k, position);
      const std::int64_t page = params.batch.pages[item.first_page + key / cache.page_size];
      key_rows[k] = static_cast<const T*>(cache.data) + page * cache.page_stride +
                    key % cache.page_size * cache.token_stride + kv_head * cache.head_stride;
      float score = 0;
#pragma unroll
      for (int i = 0; i < kMaxLaneDims; ++i) {
        if (lane + 32 * i < sizes.head_dim) score += query[i] * load(key_rows[k] + lane + 32 * i);
      }
      const bool is_hidden = first + k > position || (documents != nullptr && documents[key] != documents[position] &&
                                                      documents[position] >= 0);
      score = warp_sum(score);
      scores[k] = is_hidden ? -INFINITY : score;
      new_largest = fmaxf(new_largest, scores[k]);
    }
    if (new_largest == -INFINITY) continue;
    const float shrink = expf(partial.largest - new_largest);
    partial.largest = new_largest;
    partial.sum *= shrink;
#pragma unroll
    for (int i = 0; i < kMaxLaneDims; ++i) partial.values[i] *= shrink;
#pragma unroll
    for (int k = 0; k < kKeysAtOnce; ++k) {
      if (scores[k] == -INFINITY) continue;  // nobody may have written its value
      const float weight = expf(scores[k] - new_largest);
      partial.sum += weight;
#pragma unroll
      for (int i = 0; i < kMaxLaneDims; ++i) {
        if (lane + 32 * i < sizes.head_dim) {
          partial.values[i] += weight * load(key_rows[k] + cache.value_offset + lane + 32 * i);
        }
      }
    }
  }
  if (lane == 0) {
    warp_largest[warp] = partial.largest;
    warp_sums[warp] = partial.sum;
  }
#pragma unroll
  for (int i = 0; i < kMaxLaneDims; ++i) warp_values[warp][lane + 32 * i] = partial.values[i];
  __syncthreads();

  float largest = -INFINITY;
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, warp_largest[w]);
  T* const out = static_cast<T*>(params.out) + (row * sizes.num_heads + head) * sizes.head_dim;
  for (auto channel = static_cast<std::int32_t>(threadIdx.x); channel < sizes.head_dim; channel += kWarps * 32) {
    float sum = 0;
    float value = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = expf(warp_largest[w] - largest);  // 0 for a warp that had no key
      sum += weight * warp_sums[w];
      value += weight * warp_values[w][channel];
    }
    store(out + channel, value / sum);
  }
}

}  // namespace

void launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_items), static_cast<unsigned>(params.sizes.num_heads));
  launch("attention", precision == Precision::kFloat32 ? attend_plainly<float> : attend_plainly<__nv_bfloat16>, grid,
         kWarps * 32, 0, stream, params);
}

}  // namespace mini_engine::gpu
