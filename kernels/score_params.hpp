// What the kernels of row scores are told. No CUDA here: host code builds it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "params.hpp"

namespace pikv::kernels {

/// Rows of one layer in a view of fp32, fp16 or bf16.
struct ScoredRows {
  Plane k;  ///< `base` is the layer's, `layer_bytes` is not used
  Plane v;  ///< likewise
  SourceKind kind = SourceKind::kBFloat16;
  SlotMap slots = SlotMap::consecutive(0, 0);
  Divisor table_page;  ///< tokens a page of the map's table
  Divisor page_size;   ///< of the view
  std::int64_t num_slots = 0;
};

struct DeviationParams {
  ScoredRows fresh;
  ScoredRows cached;
  PositionMap positions = PositionMap::consecutive(0);
  RopeTableView rope{};  ///< half_dim 0: fresh keys are compared as they are
  std::int32_t num_rows = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;
  Divisor key_units{};     ///< a head of keys, see units_per_head()
  Divisor value_units{};   ///< a head of values
  float key_weight = 0;    ///< 0: keys are not read
  float value_weight = 0;  ///< 0: values are not read
  bool is_vectorizable = false;
  float* scores = nullptr;  ///< [num_rows], added to
};

/// Queries and keys of a tile; a block of kThreads multiplies one by the other.
inline constexpr std::int32_t kTileVectors = 64;
inline constexpr std::int32_t kTileKeys = 64;
/// Segments that one launch tells apart: as many as sums of a tile's vectors find room for.
inline constexpr std::int32_t kLaunchSegments = 32;

/// What a vector's products are turned into weights by: 2^(product - maximum) * factor.
struct Softmax {
  float maximum;
  float factor;  ///< of a part: the sum itself
};

/// A vector is one query head of one row: of KV head h, vector v is head h * group + v % group of row v / group.
/// M: vectors of a KV head.
struct AttentionParams {
  ScoredRows keys;
  const std::byte* queries = nullptr;
  SourceKind query_kind = SourceKind::kBFloat16;
  std::int64_t query_row_bytes = 0;
  const std::int32_t* query_rows = nullptr;  ///< [num_rows]
  std::int32_t num_rows = 0;
  std::int32_t num_keys = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;
  Divisor group{};
  std::int32_t num_vectors = 0;    ///< M
  float query_factor = 0;          ///< of products: scale * log2(e)
  float share = 0;                 ///< of a head in the mean
  bool keys_vectorizable = false;  ///< by 16 bytes
  bool queries_vectorizable = false;

  std::int32_t num_key_splits = 1;     ///< blocks that share the keys of a tile of vectors
  std::int32_t num_vector_splits = 1;  ///< blocks that share the vectors of a tile of keys
  Softmax* softmax_parts = nullptr;    ///< [H][M][num_key_splits]
  Softmax* softmax = nullptr;          ///< [H][M]
  float* key_parts = nullptr;          ///< [H][num_vector_splits][num_keys]
  float* segment_parts = nullptr;      ///< [num_key_splits][H][M][num_segments]

  float* key_scores = nullptr;  ///< [num_keys], null: not wanted
  const std::int32_t* key_segments = nullptr;
  std::int32_t num_segments = 0;
  std::int32_t first_segment = 0;   ///< of the launch
  float* segment_scores = nullptr;  ///< [num_rows][num_segments], null: not wanted
};

[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t num_vector_tiles(const AttentionParams& params) noexcept {
  return (params.num_vectors - 1) / kTileVectors + 1;
}
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t num_key_tiles(const AttentionParams& params) noexcept {
  return (params.num_keys - 1) / kTileKeys + 1;
}

}  // namespace pikv::kernels
