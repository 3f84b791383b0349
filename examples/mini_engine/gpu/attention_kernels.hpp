// What the attention kernels are told.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention.hpp"

namespace mini_engine::gpu {

/// Rows that a tile of the tensor-core kernel takes from one sequence, all query heads of a KV head with them:
/// kTileRows stacked rows.
inline constexpr std::int32_t kTileRows = 64;
inline constexpr std::int32_t kTileKeys = 64;

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

/// bf16, heads of 64 or 128.
cudaError_t launch_attention_tensor_cores(const AttentionParams& params, cudaStream_t stream);
/// fp32 or bf16, heads of up to 256: a warp a row and head, key by key. For checking, and for odd head sizes.
cudaError_t launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream);
/// out = sum over splits of exp(lse - largest lse) * partial output / the sum of the weights.
cudaError_t launch_attention_merge(const AttentionParams& params, Precision precision, cudaStream_t stream);

}  // namespace mini_engine::gpu
