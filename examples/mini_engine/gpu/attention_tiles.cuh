// What the tensor-core kernels share: copies into shared memory, the scores of a warp, and where its results go.
//
// A warp holds 16 stacked rows by 8 * kBlocks keys, as products of 16 by 8 leave them: lane l has, of block b, columns
// 2 * (l % 4) and the next of rows l / 4 and l / 4 + 8.
#pragma once

#include <cuda_bf16.h>

#include "attention_kernels.hpp"

namespace mini_engine::gpu::tiles {

inline constexpr int kChunk = 8;  // elements of 16 bytes

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// 16 bytes, or zeros.
__device__ inline void copy_async(void* target, const void* source, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
               "r"(is_there ? 16 : 0)
               : "memory");
}

__device__ inline std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}

/// Elements from the cache's start to the K of a key of the item's sequence.
__device__ inline std::int64_t key_offset(const AttentionParams& params, const AttentionItem& item, std::int32_t key) {
  const auto page_size = static_cast<std::uint32_t>(params.cache.page_size);
  const auto row = static_cast<std::uint32_t>(key);
  const std::int64_t page = params.batch.pages[item.first_page + static_cast<std::int32_t>(row / page_size)];
  return page * params.cache.page_stride + row % page_size * params.cache.token_stride;
}

/// What a block works on: an item, for the query heads of one KV head. Row s of the stack is query head s % group of
/// row s / group.
struct Work : AttentionItem {
  std::int32_t kv_head;
  std::int32_t group;

  __device__ Work(const AttentionParams& params, std::int32_t item, std::int32_t head)
      : AttentionItem(params.items[item]), kv_head(head), group(params.sizes.num_heads / params.sizes.num_kv_heads) {}

  [[nodiscard]] __device__ bool has(std::int32_t stacked) const { return stacked < num_rows * group; }
  /// Elements of queries before the stacked row's.
  [[nodiscard]] __device__ std::int64_t query_offset(const AttentionParams& params, std::int32_t stacked) const {
    return (first_row + stacked / group) * params.query_stride +
           std::int64_t{kv_head * group + stacked % group} * params.sizes.head_dim;
  }
};

/// 2^x, 0 for what is too small for a normal number.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Which keys the two rows of a lane see.
struct Visibility {
  const std::int32_t* documents;  ///< null: plain causal attention
  std::int32_t first_position;    ///< of the block's rows
  std::int32_t positions[2];
  std::int32_t own_documents[2];

  __device__ Visibility(const AttentionParams& params, const Work& work, std::int32_t first_stacked)
      : documents(work.first_document < 0 ? nullptr : params.batch.documents + work.first_document),
        first_position(params.batch.positions[work.first_row]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int32_t row = min((first_stacked + 8 * i) / work.group, work.num_rows - 1);
      positions[i] = params.batch.positions[work.first_row + row];
      own_documents[i] = documents == nullptr ? -1 : documents[positions[i]];
    }
  }

  /// Scores of keys that a row does not see become minus infinity.
  template <int kBlocks>
  __device__ void mask(float (&scores)[kBlocks][4], std::int32_t first_key) const {
    if (documents == nullptr && first_key + 8 * kBlocks - 1 <= first_position) return;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int32_t key = first_key + n * 8 + static_cast<std::int32_t>(threadIdx.x % 4) * 2 + j % 2;
        bool is_hidden = key > positions[j / 2];
        if (documents != nullptr && !is_hidden && own_documents[j / 2] >= 0) {
          is_hidden = documents[key] != own_documents[j / 2];
        }
        if (is_hidden) scores[n][j] = -INFINITY;
      }
    }
  }
};

/// The online softmax of FlashAttention-2 (Dao, 2023), for the two rows of a lane.
template <int kHeadDim>
class OnlineSoftmax {
 public:
  /// Turns scores into weights; what was summed before has to shrink by `shrink`.
  template <int kBlocks>
  __device__ void update(float (&scores)[kBlocks][4], float (&shrink)[2]) {
    const float to_log2 = 1.4426950408889634F * rsqrtf(static_cast<float>(kHeadDim));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float tile_largest = largest_[i];
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        tile_largest = fmaxf(tile_largest, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
      }
      tile_largest = fmaxf(tile_largest, __shfl_xor_sync(~0U, tile_largest, 1));
      tile_largest = fmaxf(tile_largest, __shfl_xor_sync(~0U, tile_largest, 2));
      const float base = tile_largest == -INFINITY ? 0.0F : tile_largest * to_log2;
      shrink[i] = power_of_2(largest_[i] * to_log2 - base);
      largest_[i] = tile_largest;
      float tile_sum = 0;
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        scores[n][2 * i] = power_of_2(scores[n][2 * i] * to_log2 - base);
        scores[n][2 * i + 1] = power_of_2(scores[n][2 * i + 1] * to_log2 - base);
        tile_sum += scores[n][2 * i] + scores[n][2 * i + 1];
      }
      sum_[i] = sum_[i] * shrink[i] + tile_sum;
    }
  }

  /// Of the whole row: the sum of its weights relative to the largest score.
  [[nodiscard]] __device__ float sum(int i) const {
    float value = sum_[i];
    value += __shfl_xor_sync(~0U, value, 1);
    return value + __shfl_xor_sync(~0U, value, 2);
  }
  [[nodiscard]] __device__ float log_sum_exp(int i, float sum) const {
    return sum > 0 ? largest_[i] * rsqrtf(static_cast<float>(kHeadDim)) + logf(sum) : -INFINITY;
  }

 private:
  float largest_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {0, 0};
};

/// The lane's part of its two rows, divided by the weights' sum: to the output, or beside its log-sum-exp when other
/// blocks hold the rest.
template <int kHeadDim>
__device__ void write_rows(const AttentionParams& params, const Work& work, std::int32_t first_stacked,
                           const float (&sums)[kHeadDim / 8][4], const OnlineSoftmax<kHeadDim>& softmax) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = softmax.sum(i);
    const std::int32_t stacked = first_stacked + 8 * i;
    if (!work.has(stacked)) continue;
    const float factor = sum > 0 ? 1.0F / sum : 0.0F;
    const std::int64_t head = (work.first_row + stacked / work.group) * std::int64_t{params.sizes.num_heads} +
                              work.kv_head * work.group + stacked % work.group;
    if (work.num_splits == 1) {
      auto* const out = static_cast<__nv_bfloat16*>(params.out) + head * kHeadDim + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
        *reinterpret_cast<std::uint32_t*>(out + d * 8) = pack(sums[d][2 * i] * factor, sums[d][2 * i + 1] * factor);
      }
      continue;
    }
    const std::int64_t at = work.split * params.num_rows * params.sizes.num_heads + head;
    float* const out = params.partial_outputs + at * kHeadDim + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      *reinterpret_cast<float2*>(out + d * 8) = make_float2(sums[d][2 * i] * factor, sums[d][2 * i + 1] * factor);
    }
    if (lane % 4 == 0) params.partial_lses[at] = softmax.log_sum_exp(i, sum);
  }
}

}  // namespace mini_engine::gpu::tiles
