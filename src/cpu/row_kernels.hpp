// The inner loops of what runs on the CPU, one set for each instruction set, chosen at run time.
//
// Every set moves rows by the arithmetic of pikv/detail/rotate.hpp and pikv/detail/half.hpp and gives the same bits
// (the payload of a NaN that the rotation itself makes or passes on is the one exception).
//
// This header is included by files compiled for instruction sets that the running CPU may lack. It therefore holds
// plain data only: an inline function here could be compiled with such instructions, and the linker could keep that
// copy for everybody.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/score_kernels.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// All heads of one token's keys. Channels are adjacent in memory; heads may lie anywhere.
struct KeyRow {
  const std::byte* source;         ///< head 0, channel 0; elements of the source type, any alignment
  std::byte* target;               ///< may not overlap the source
  std::int64_t source_head_bytes;  ///< from one head to the next
  std::int64_t target_head_bytes;
  std::int32_t num_heads;
  std::int32_t head_dim;
  std::int32_t half_dim;  ///< r/2, may be 0; channels from 2 * half_dim on are converted only
  const float* cos;       ///< [half_dim]
  const float* sin;       ///< [half_dim]
  float inverse_square;   ///< used when turning back
};
using MoveKeyRow = void (*)(const KeyRow& row) noexcept;

/// `num_elements` adjacent elements, converted; bytes are copied as they are where both types are equal.
using MoveElements = void (*)(const std::byte* source, std::byte* target, std::int64_t num_elements) noexcept;

// Indices into the tables below.
enum : std::uint8_t { kTurn = 0, kTurnBack = 1, kNumDirections = 2 };
enum : std::uint8_t { kNumPairings = 2 };
/// kStream bypasses the cache on stores. Requires: the target of every head, of the second half of its channels and of
/// the channels that do not turn is a multiple of 16 elements' bytes.
enum : std::uint8_t { kCached = 0, kStream = 1, kNumStores = 2 };
enum : std::uint8_t { kNumDTypes = 3 };

inline constexpr std::int64_t kStreamElements = 16;

struct RowKernels {
  const char* name;
  MoveKeyRow keys[kNumDirections][kNumPairings][kNumStores][kNumDTypes][kNumDTypes];  ///< [..][source][target]
  MoveElements elements[kNumStores][kNumDTypes][kNumDTypes];
  void (*finish_streaming)() noexcept;  ///< makes streamed stores visible before whatever the caller stores next
  ScoreKernels scores;
};

extern const RowKernels kBaselineRowKernels;
extern const RowKernels kAvx2RowKernels;    ///< needs AVX2, FMA, F16C
extern const RowKernels kAvx512RowKernels;  ///< needs those, and AVX-512 F, BW, DQ, VL

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
