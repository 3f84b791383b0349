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

/// Some rows of one sequence.
struct AttentionTile {
  std::int32_t first_row;  ///< of the batch
  std::int32_t num_rows;
  std::int32_t num_keys;        ///< that the last row sees
  std::int32_t first_page;      ///< as in AttentionSequence
  std::int32_t first_document;  ///< as in AttentionSequence
};

struct AttentionParams {
  AttentionBatch batch;
  CacheLayer cache;
  HeadSizes sizes;
  const void* queries;
  std::int64_t query_stride;
  void* out;
  const AttentionTile* tiles;  ///< [num_tiles]
  std::int32_t num_tiles;
  std::int32_t num_splits;
  std::int64_t num_rows;
  float* partial_outputs;  ///< [splits][R][Q][D]; used when num_splits > 1
  float* partial_lses;     ///< [splits][R][Q]
};

/// bf16, heads of 64 or 128. The rows of a tile times the query heads of a KV head fit into the kernel's TileShape.
void launch_attention_narrow(const AttentionParams& params, cudaStream_t stream);
void launch_attention_wide(const AttentionParams& params, cudaStream_t stream);
/// out = sum over splits of exp(lse - largest lse) * partial output / the sum of the weights. As the two above.
void launch_attention_merge(const AttentionParams& params, cudaStream_t stream);
/// fp32 or bf16, heads of up to 256: a warp a row and head, key by key, without splits. For checking, and for odd head
/// sizes.
void launch_attention_plain(const AttentionParams& params, Precision precision, cudaStream_t stream);

}  // namespace mini_engine::gpu
