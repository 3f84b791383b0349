// What the re-anchor and encode kernels are told: plain structs that travel by value as kernel parameters, so that a
// launch needs no device allocation and can be captured in a graph. No CUDA here: host code and tests build them.
//
// Strides are in bytes. Pointers are to device memory, or to page-locked host memory, unless said otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pikv/backend.hpp"
#include "pikv/geometry.hpp"
#include "pikv/slab.hpp"
#include "pikv/types.hpp"

namespace pikv::kernels {

/// How the elements of a source are read. The first four are those of DType, in its order.
enum class SourceKind : std::uint8_t { kFloat32, kFloat16, kBFloat16, kFloat8E4M3, kInt8, kInt4 };
inline constexpr int kNumSourceKinds = 6;

/// Keys or values, all layers: element (layer, slot, head, d) begins at
/// base + layer * layer_bytes + slot / page_size * page_bytes + slot % page_size * token_bytes + head * head_bytes
///      + d * dim_bytes. kInt4: two channels share a byte, and dim_bytes is not used.
struct Plane {
  const std::byte* base = nullptr;  ///< not null
  std::int64_t layer_bytes = 0;
  std::int64_t page_bytes = 0;
  std::int64_t token_bytes = 0;
  std::int64_t head_bytes = 0;
  std::int64_t dim_bytes = 0;
};

/// What turns codes into numbers, for the keys or the values of one source.
struct Decoding {
  /// kFloat8E4M3: fp32, null: 1. kInt8: fp16. kInt4: {scale, minimum}, two fp16. Else null.
  const std::byte* scales = nullptr;
  std::int64_t layer_bytes = 0;      ///< of `scales`
  std::int64_t head_bytes = 0;       ///< kFloat8E4M3: of `scales`. Other kinds are laid out as SlabSections says.
  const std::byte* sinks = nullptr;  ///< kInt4: [min(4, T)][H][D] bf16, `sink_layer_bytes` from layer to layer
  std::int64_t sink_layer_bytes = 0;
};

/// One run of a transfer.
struct Run {
  Plane k;
  Plane v;
  Decoding k_decoding;
  Decoding v_decoding;
  const float* key_bias = nullptr;  ///< [L][H][D], added to decoded keys; null: none
  SlotMap source_slots = SlotMap::consecutive(0, 0);
  SlotMap target_slots = SlotMap::consecutive(0, 0);
  PositionMap positions = PositionMap::consecutive(0);
  std::int64_t num_slots = 0;    ///< of the source
  std::int32_t page_size = 1;    ///< of the source
  std::int32_t first_block = 0;  ///< thread blocks of the runs before this one
};

/// Bounds of one launch; longer transfers are several. A launch carries its runs in its parameters. CUDA would take
/// 32,764 bytes of them, but starts a kernel faster with less than 4,096.
inline constexpr int kMaxRuns = 8;
inline constexpr int kMaxLayers = 64;

/// Which planes a launch moves.
enum : std::uint8_t { kKeys = 1, kValues = 2 };

struct TargetParams {
  std::byte* k_layers[kMaxLayers];  ///< base of each layer of the launch, from layer_begin on
  std::byte* v_layers[kMaxLayers];
  Plane k;  ///< `base` and `layer_bytes` are not used
  Plane v;
  KvScales scales;  ///< of kFloat8E4M3
  std::int64_t num_slots = 0;
  std::int32_t page_size = 1;
};

/// How the staged kernel uses shared memory; see staging_of(). All in bytes but for the counts.
struct Staging {
  std::int32_t tile_tokens = 0;  ///< at most 32
  std::int32_t num_stages = 0;   ///< at most kMaxStages
  std::int32_t stage_bytes = 0;
  std::int32_t pieces_per_token = 1;  ///< 1 where a token's heads are adjacent in the source, else one for each head
  std::int32_t piece_bytes = 0;
  std::int32_t head_bytes = 0;     ///< of a head in the stage
  std::int32_t table_offset = 0;   ///< [tile_tokens][2][half_dim] fp32
  std::int32_t scales_offset = 0;  ///< as many as a tile can need
  std::int32_t tokens_offset = 0;  ///< kStagedHeaderBytes, then [tile_tokens] of kStagedTokenBytes
  std::int32_t num_multiprocessors = 0;
};
inline constexpr std::int32_t kMaxStages = 8;
inline constexpr std::int32_t kMaxTileTokens = 32;
inline constexpr std::int32_t kStagedTokenBytes = 16;
inline constexpr std::int32_t kStagedHeaderBytes = 48;
inline constexpr int kStagedBlocksPerMultiprocessor = 2;
/// Of a block: a multiprocessor has 227 KiB, of which CUDA takes 1 KiB a block.
inline constexpr std::int32_t kMaxStagedBytes = (224 << 10) / kStagedBlocksPerMultiprocessor - 1024;

struct ReanchorParams {
  Run runs[kMaxRuns];
  TargetParams target;
  Staging staging;              ///< of the staged kernel
  RopeTableView rope;           ///< half_dim 0: keys do not turn; its inverse_square is not used
  float inverse_square = 1.0F;  ///< what turned keys are multiplied by; 1 when re-anchoring
  bool turns_back = false;
  bool streams = false;  ///< what is written will not be read again before the second-level cache has turned over
  std::uint8_t planes = kKeys | kValues;
  std::int32_t num_runs = 0;
  std::int32_t num_blocks = 0;  ///< thread blocks of all runs, in one layer of one plane
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;
  std::int32_t layer_begin = 0;
  std::int32_t num_layers = 0;  ///< of the launch
  /// [kNumFlaws] in host memory that the device can write: the word of a Flaw becomes 1 where a token was left out
  /// because what the device read was out of range. Not null.
  std::uint32_t* flaws = nullptr;
};
static_assert(sizeof(ReanchorParams) <= 4096);

enum Flaw : std::uint8_t { kBadSlot = 0, kBadPosition = 1, kNumFlaws = 2 };

inline constexpr int kThreads = 256;  ///< of a block, in every kernel

/// Channels of a vector: 16 bytes of a 16-bit type.
inline constexpr std::int32_t kVectorChannels = 8;

/// A thread of the vector kernel owns two vectors of a head, and these many cover it: first those that turn, then the
/// rest. half_dim: 0 for values.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t units_per_head(std::int32_t head_dim,
                                                                     std::int32_t half_dim) noexcept {
  const std::int32_t resting = (head_dim - 2 * half_dim) / kVectorChannels;
  return half_dim / kVectorChannels + (resting + 1) / 2;
}

/// Consecutive tokens of which a thread of the vector kernel moves its channels: more than one where scales of channels
/// are worth keeping in registers.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t tokens_per_thread(SourceKind kind) noexcept {
  return kind == SourceKind::kInt4 || kind == SourceKind::kInt8 ? 2 : 1;
}

/// Tokens of a block of the element kernel.
inline constexpr std::int32_t kElementBlockTokens = 32;

/// How a launch of this kind is staged; num_stages is 0 when it does not fit. For keys and values alike.
[[nodiscard]] constexpr Staging staging_of(SourceKind kind, std::int32_t num_heads, std::int32_t head_dim,
                                           std::int32_t half_dim, bool heads_are_adjacent) noexcept {
  // Of a stage: long enough to be worth its barrier, short enough for several; measured on an H100.
  const bool has_wide_rows = kind == SourceKind::kFloat16 || kind == SourceKind::kBFloat16;
  const std::int32_t rows_bytes = has_wide_rows ? 32 << 10 : 16 << 10;
  const auto round_up = [](std::int32_t bytes) { return (bytes + 127) / 128 * 128; };
  Staging staging;
  const std::int32_t element_bits = has_wide_rows ? 16 : kind == SourceKind::kInt4 ? 4 : 8;
  if (kind == SourceKind::kFloat32 || head_dim % kVectorChannels != 0 || num_heads > kThreads) return {};
  if (num_heads * units_per_head(head_dim, half_dim) > kThreads) return {};
  staging.head_bytes = head_dim * element_bits / 8;
  staging.pieces_per_token = heads_are_adjacent ? 1 : num_heads;
  staging.piece_bytes = heads_are_adjacent ? num_heads * staging.head_bytes : staging.head_bytes;
  if (staging.piece_bytes % 16 != 0) return {};
  const std::int32_t row_bytes = num_heads * staging.head_bytes;
  const std::int32_t tokens = rows_bytes / row_bytes;
  staging.tile_tokens = tokens < 1 ? 1 : tokens > kMaxTileTokens ? kMaxTileTokens : tokens;
  staging.table_offset = round_up(staging.tile_tokens * row_bytes);
  staging.scales_offset = staging.table_offset + round_up(staging.tile_tokens * half_dim * 8);
  const std::int32_t row = num_heads * head_dim;
  const std::int32_t scale_bytes = kind == SourceKind::kInt8   ? row * 2 + staging.tile_tokens * num_heads * 2 + 32
                                   : kind == SourceKind::kInt4 ? row * 8 + staging.tile_tokens * row / 8 + 32
                                                               : 0;
  staging.tokens_offset = staging.scales_offset + round_up(scale_bytes);
  staging.stage_bytes = staging.tokens_offset + round_up(kStagedHeaderBytes + staging.tile_tokens * kStagedTokenBytes);
  const std::int32_t fit = kMaxStagedBytes / staging.stage_bytes;
  staging.num_stages = fit > kMaxStages ? kMaxStages : fit < 2 ? 0 : fit;
  return staging;
}

/// One chunk to be encoded; see SlabEncode.
struct EncodeParams {
  Plane k;
  Plane v;
  SourceKind source = SourceKind::kBFloat16;  ///< one of the first four
  KvScales source_scales;                     ///< of kFloat8E4M3
  SlotMap source_slots = SlotMap::consecutive(0, 0);
  PositionMap positions = PositionMap::consecutive(0);
  RopeTableView rope;  ///< half_dim 0: the source's keys are semantic
  std::int64_t num_slots = 0;
  std::int32_t page_size = 1;
  std::byte* slab = nullptr;  ///< layer 0 of the target
  SlabSections sections;
  SlabFormat format = SlabFormat::kFloat8;  ///< not kPlain
  const float* key_bias = nullptr;          ///< [L][H][D], subtracted from keys; null: none
  std::int64_t num_tokens = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;
  std::int32_t layer_begin = 0;
  std::int32_t num_layers = 0;
  std::uint32_t* flaws = nullptr;  ///< as in ReanchorParams; what cannot be read counts as 0
};

}  // namespace pikv::kernels
