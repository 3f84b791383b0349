// What the attention kernels are told.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention.hpp"

namespace mini_engine::gpu {

/// What a block of a tensor-core kernel takes at once: stacked rows, which are rows of one sequence times the query
/// heads of one KV head, and keys.
struct TileShape {
  std::int32_t rows;
  std::int32_t keys;
};
inline constexpr TileShape kNarrowTile{.rows = 64, .keys = 64};
inline constexpr TileShape kWideTile{.rows = 128, .keys = 128};
inline constexpr std::int32_t kMaxSplits = 32;

struct AttentionParams {
  AttentionBatch batch;
  CacheLayer cache;
  HeadSizes sizes;
  const void* queries;
  std::int64_t query_stride;
  void* out;
  const std::int32_t* tiles;  ///< [num_tiles][2] sequence, first row of it
  std::int32_t rows_per_tile;
  std::int32_t num_tiles;
  std::int32_t num_splits;
  std::int64_t num_rows;
  float* partial_outputs;  ///< [splits][R][Q][D]; used when num_splits > 1
  float* partial_lses;     ///< [splits][R][Q]
};

/// bf16, heads of 64 or 128; rows_per_tile rows times the heads of a group fit into the kernel's tile.
cudaError_t launch_attention_narrow(const AttentionParams& params, cudaStream_t stream);
cudaError_t launch_attention_wide(const AttentionParams& params, cudaStream_t stream);
/// out = sum over splits of exp(lse - largest lse) * partial output / the sum of the weights. As the two above.
cudaError_t launch_attention_merge(const AttentionParams& params, cudaStream_t stream);
/// fp32 or bf16, heads of up to 256: a warp a row and head, key by key, without splits. For checking, and for odd head
/// sizes.
cudaError_t launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream);

}  // namespace mini_engine::gpu
