// What the attention kernels are told.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention.hpp"

namespace mini_engine::gpu {

inline constexpr TileShape kNarrowTile{.rows = 64, .keys = 64};
inline constexpr TileShape kWideTile{.rows = 128, .keys = 128};

struct AttentionParams {
  AttentionBatch batch;
  CacheLayer cache;
  HeadSizes sizes;
  const void* queries;
  std::int64_t query_stride;
  void* out;
  const AttentionItem* items;  ///< [num_items]
  std::int32_t num_items;
  const std::int32_t* row_splits;  ///< [R] into how many shares the row's keys are split
  std::int64_t num_rows;
  float* partial_outputs;  ///< [splits][R][Q][D] of rows whose keys are split
  float* partial_lses;     ///< [splits][R][Q]
};

/// bf16, heads of 64 or 128. The rows of an item times the query heads of a KV head fit into the kernel's TileShape.
void launch_attention_narrow(const AttentionParams& params, cudaStream_t stream);
void launch_attention_wide(const AttentionParams& params, cudaStream_t stream);
/// Of rows whose keys are split: out = sum over splits of exp(lse - largest lse) * partial output / the sum of the
/// weights. For what the two above have left.
void launch_attention_merge(const AttentionParams& params, cudaStream_t stream);
/// fp32 or bf16, heads of up to 256: a block a row and some heads, its warps key by key. Items are of one row, not
/// split. For checking, and for odd head sizes.
void launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream);

}  // namespace mini_engine::gpu
