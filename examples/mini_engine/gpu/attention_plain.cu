#include <cuda_bf16.h>

#include "attention_kernels.hpp"
#include "launch.cuh"
#include "numbers.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxLaneDims = 8;  // of heads up to 256

__device__ float warp_sum(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0U, value, apart);
  return value;
}

/// A warp a row and query head, a lane every 32nd channel; one key after the other.
template <class T>
__global__ void attend_plainly(const AttentionParams params) {
  let_next_kernel_start();
  wait_for_kernels_before();
  const HeadSizes& sizes = params.sizes;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const std::int32_t head =
      static_cast<std::int32_t>(blockIdx.y) * kWarps + static_cast<std::int32_t>(threadIdx.x / 32);
  if (head >= sizes.num_heads) return;
  const AttentionItem item = params.items[blockIdx.x];
  if (item.num_rows == 0) return;
  const std::int64_t row = item.first_row;
  const std::int32_t position = params.batch.positions[row];
  const std::int32_t* const documents =
      item.first_document < 0 ? nullptr : params.batch.documents + item.first_document;
  const std::int32_t kv_head = head / (sizes.num_heads / sizes.num_kv_heads);
  const float factor = rsqrtf(static_cast<float>(sizes.head_dim));

  float query[kMaxLaneDims];
  float sums[kMaxLaneDims];
  const T* const query_row = static_cast<const T*>(params.queries) + row * params.query_stride + head * sizes.head_dim;
#pragma unroll
  for (int i = 0; i < kMaxLaneDims; ++i) {
    query[i] = lane + 32 * i < sizes.head_dim ? load(query_row + lane + 32 * i) * factor : 0.0F;
    sums[i] = 0;
  }
  float largest = -INFINITY;
  float sum = 0;
  for (std::int32_t key = 0; key <= position; ++key) {
    if (documents != nullptr && documents[key] != documents[position] && documents[position] >= 0) continue;
    const CacheLayer& cache = params.cache;
    const std::int64_t page = params.batch.pages[item.first_page + key / cache.page_size];
    const T* const key_row = static_cast<const T*>(cache.data) + page * cache.page_stride +
                             key % cache.page_size * cache.token_stride + kv_head * cache.head_stride;
    float score = 0;
#pragma unroll
    for (int i = 0; i < kMaxLaneDims; ++i) {
      if (lane + 32 * i < sizes.head_dim) score += query[i] * load(key_row + lane + 32 * i);
    }
    score = warp_sum(score);
    const float new_largest = fmaxf(largest, score);
    const float shrink = expf(largest - new_largest);
    const float weight = expf(score - new_largest);
    largest = new_largest;
    sum = sum * shrink + weight;
#pragma unroll
    for (int i = 0; i < kMaxLaneDims; ++i) {
      if (lane + 32 * i < sizes.head_dim) {
        sums[i] = sums[i] * shrink + weight * load(key_row + cache.value_offset + lane + 32 * i);
      }
    }
  }
  T* const out = static_cast<T*>(params.out) + (row * sizes.num_heads + head) * sizes.head_dim;
#pragma unroll
  for (int i = 0; i < kMaxLaneDims; ++i) {
    if (lane + 32 * i < sizes.head_dim) store(out + lane + 32 * i, sums[i] / sum);
  }
}

}  // namespace

void launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_items),
                  static_cast<unsigned>((params.sizes.num_heads + kWarps - 1) / kWarps));
  launch("attention", precision == Precision::kFloat32 ? attend_plainly<float> : attend_plainly<__nv_bfloat16>, grid,
         kWarps * 32, 0, stream, params);
}

}  // namespace mini_engine::gpu
