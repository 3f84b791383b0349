// Where a token comes from and goes to.
#pragma once

#include <cstdint>

#include "params.hpp"

namespace pikv::kernels {

/// A token in one plane and layer: head 0, channel 0.
struct TokenPlace {
  const std::byte* source;
  std::byte* target;  ///< null: the token is left out
  std::int32_t source_slot;
  Position position;
};

[[nodiscard]] __device__ __forceinline__ bool in_range(std::int64_t value, std::int64_t end) {
  return value >= 0 && value < end;
}

/// Every thread that finds a flaw writes the same word, so no atomic operation over the bus is needed.
__device__ __forceinline__ void report_flaw(std::uint32_t* flaws, Flaw flaw) {
  *reinterpret_cast<volatile std::uint32_t*>(flaws + flaw) = 1;
}

/// The slot of a run's token.
[[nodiscard]] __device__ __forceinline__ Slot slot_of(const SlotMap& map, const Divisor& table_page,
                                                      std::uint32_t token) {
  if (map.kind() == SlotMap::Kind::kPerToken) return map.slots()[token];
  if (map.kind() == SlotMap::Kind::kConsecutive) return map.first() + token;
  const std::uint32_t place = static_cast<std::uint32_t>(map.first()) + token;
  const std::uint32_t page = table_page.quotient(place);
  return map.pages()[page] * std::int64_t{table_page.value} + (place - page * table_page.value);
}

/// Bytes from a layer's base to a slot. Requires: 0 <= slot < 2^31.
[[nodiscard]] __device__ __forceinline__ std::uint64_t slot_offset(const Plane& plane, const Divisor& page_size,
                                                                   std::uint32_t slot) {
  if (page_size.value == 1) return std::uint64_t{slot} * plane.page_bytes;
  const std::uint32_t page = page_size.quotient(slot);
  return std::uint64_t{page} * plane.page_bytes + std::uint64_t{slot - page * page_size.value} * plane.token_bytes;
}

/// The index of the run that a block belongs to. Compares with every run: constants all, where a search would wait for
/// each in turn.
[[nodiscard]] __device__ __forceinline__ std::int32_t find_run(const ReanchorParams& params, std::int32_t block) {
  std::int32_t index = 0;
#pragma unroll
  for (std::int32_t i = 1; i < kMaxRuns; ++i) index += params.first_blocks[i] <= block ? 1 : 0;
  return index;
}

/// The slot that a token is read from; negative: the map names one that does not exist.
[[nodiscard]] __device__ __forceinline__ std::int32_t source_slot(const Run& run, std::uint32_t token) {
  const Slot slot = slot_of(run.source_slots, run.source_table_page, token);
  return in_range(slot, run.num_slots) ? static_cast<std::int32_t>(slot) : -1;
}

/// The position that a token's keys are turned by: 0 where nothing turns, negative: outside the table.
[[nodiscard]] __device__ __forceinline__ Position turned_position(const ReanchorParams& params, const Run& run,
                                                                  std::uint32_t token) {
  if (!params.rope.turns()) return 0;
  const Position position = run.positions.position(token);
  // The host has checked consecutive ones.
  return !run.positions.is_per_token() || in_range(position, params.rope.num_positions) ? position : -1;
}

/// The slot that a token is written to; negative: it is left out. So is one without a source or a position, keys and
/// values alike, and reported unless the map leaves it out anyway.
[[nodiscard]] __device__ __forceinline__ std::int32_t target_slot(const ReanchorParams& params, const Run& run,
                                                                  std::uint32_t token, std::int32_t source_slot,
                                                                  Position position) {
  const Slot slot = slot_of(run.target_slots, run.target_table_page, token);
  if (slot == kSkipSlot) return -1;
  const bool has_slots = in_range(slot, params.target.num_slots) && source_slot >= 0;
  if (!has_slots) report_flaw(params.flaws, kBadSlot);
  if (position < 0) report_flaw(params.flaws, kBadPosition);
  return has_slots && position >= 0 ? static_cast<std::int32_t>(slot) : -1;
}

/// All of it in one plane and layer, head 0. layer_index: within the launch.
template <bool kIsKey>
[[nodiscard]] __device__ __forceinline__ TokenPlace place_token(const ReanchorParams& params, const Run& run,
                                                                std::int32_t layer_index, std::uint32_t token) {
  const std::int32_t slot = source_slot(run, token);
  const Position position = turned_position(params, run, token);
  const std::int32_t target = target_slot(params, run, token, slot, position);
  if (target < 0) return {};
  const Plane& source_plane = kIsKey ? run.k : run.v;
  const Plane& target_plane = kIsKey ? params.target.k : params.target.v;
  std::byte* const target_base = (kIsKey ? params.target.k_layers : params.target.v_layers)[layer_index];
  return {source_plane.base + (params.layer_begin + layer_index) * source_plane.layer_bytes +
              slot_offset(source_plane, run.page_size, static_cast<std::uint32_t>(slot)),
          target_base + slot_offset(target_plane, params.target.page_size, static_cast<std::uint32_t>(target)), slot,
          position};
}

}  // namespace pikv::kernels
