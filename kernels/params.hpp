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

/// Division by a number that is the same for a whole launch, as a multiplication.
/// Source: Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994.
struct Divisor {
  std::uint32_t value = 1;
  std::uint32_t shift = 31;
  std::uint32_t factor = (1U << 31) + 1;

  /// Requires: 0 < value < 2^31.
  [[nodiscard]] static constexpr Divisor of(std::uint32_t value) noexcept {
    std::uint32_t log = 0;
    while ((1U << log) < value) ++log;
    const std::uint32_t shift = 31 + log;
    return {value, shift, static_cast<std::uint32_t>((std::uint64_t{1} << shift) / value + 1)};
  }
  /// n / value. Requires: n < 2^31.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint32_t quotient(std::uint32_t n) const noexcept {
    return static_cast<std::uint32_t>(std::uint64_t{n} * factor >> shift);
  }
};

/// Keys or values, all layers: element (layer, slot, head, d) begins at
/// base + layer * layer_bytes + slot / page_size * page_bytes + slot % page_size * token_bytes + head * head_bytes
///      + d * dim_bytes. kInt4: two channels share a byte, and dim_bytes is not used.
/// Strides within a layer have 32 bits, and so have slots, which spares a kernel that has to keep up with memory
/// most of its 64-bit arithmetic; the host refuses views that reach further.
struct Plane {
  const std::byte* base = nullptr;  ///< not null
  std::int64_t layer_bytes = 0;
  std::uint32_t page_bytes = 0;
  std::uint32_t token_bytes = 0;
  std::uint32_t head_bytes = 0;
  std::uint32_t dim_bytes = 0;
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
  Divisor source_table_page;   ///< tokens a page of source_slots' table
  Divisor target_table_page;   ///< likewise
  Divisor page_size;           ///< of the source
  std::int64_t num_slots = 0;  ///< of the source
};

/// Bounds of one launch; longer transfers are several. A launch carries its runs in its parameters. CUDA would take
/// 32,764 bytes of them, but starts a kernel faster with less than 4,096.
inline constexpr int kMaxRuns = 8;
inline constexpr int kMaxLayers = 64;

/// Which planes a launch moves.
enum : std::uint8_t { kKeys = 1, kValues = 2 };

struct TargetParams {
  Plane k;  ///< `base` and `layer_bytes` are not used
  Plane v;
  KvScales scales;  ///< of kFloat8E4M3
  std::int64_t num_slots = 0;
  Divisor page_size;
  std::byte* k_layers[kMaxLayers];  ///< base of each layer of the launch, from layer_begin on
  std::byte* v_layers[kMaxLayers];
};

/// What every thread reads stands first and together: a launch starts with cold caches, its parameters among them.
struct ReanchorParams {
  /// Thread blocks of the runs before each; what no block reaches behind the last.
  std::int32_t first_blocks[kMaxRuns];
  Divisor row_units;  ///< units of a token in all heads; of the stripes kernel: stripes of a token
  /// Units of a head; of the stripes kernel: vectors of a head.
  Divisor head_units;
  std::uint32_t unit_half_dim = 0;  ///< by which units are told apart: that of `rope`, 0 where values go alone
  std::uint32_t heads_apart = 0;    ///< of the stripes kernel: from a thread's first vector to its second
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;
  std::int32_t layer_begin = 0;
  std::int32_t num_layers = 0;  ///< of the launch
  RopeTableView rope;           ///< half_dim 0: keys do not turn; its inverse_square is not used
  float inverse_square = 1.0F;  ///< what turned keys are multiplied by; 1 when re-anchoring
  bool turns_back = false;
  bool streams = false;  ///< what is written will not be read again before the second-level cache has turned over
  std::uint8_t planes = kKeys | kValues;
  /// [kNumFlaws] in host memory that the device can write: the word of a Flaw becomes 1 where a token was left out
  /// because what the device read was out of range. Not null.
  std::uint32_t* flaws = nullptr;
  std::int32_t num_runs = 0;
  std::int32_t num_blocks = 0;  ///< thread blocks of all runs, in one layer
  Run runs[kMaxRuns];
  TargetParams target;
};
static_assert(sizeof(ReanchorParams) <= 4096);

enum Flaw : std::uint8_t { kBadSlot = 0, kBadPosition = 1, kNumFlaws = 2 };

inline constexpr int kThreads = 128;  ///< of a block, in every kernel

/// At once, of the kernels that have to keep up with memory; leaves a thread 64 registers. Measured on an H100: with
/// fewer blocks memory waits, with more the registers do not suffice.
inline constexpr int kBlocksPerMultiprocessor = 8;

/// Channels of a vector: 16 bytes of a 16-bit type.
inline constexpr std::int32_t kVectorChannels = 8;

/// A thread owns two vectors of a head, and these many cover it: first those that turn, then the rest.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t units_per_head(std::int32_t head_dim,
                                                                     std::int32_t half_dim) noexcept {
  const std::int32_t resting = (head_dim - 2 * half_dim) / kVectorChannels;
  return half_dim / kVectorChannels + (resting + 1) / 2;
}

/// Tokens of a block of the element kernel.
inline constexpr std::int32_t kElementBlockTokens = 32;

/// Of the stripes kernel: what a warp moves of a token's keys, two vectors a lane.
inline constexpr std::int32_t kWarpLanes = 32;
inline constexpr std::int32_t kStripeVectors = 2 * kWarpLanes;

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
  Divisor source_table_page;
  Divisor page_size;
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
