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

/// Bytes from a layer's base to a slot. Requires: slot >= 0.
[[nodiscard]] __device__ __forceinline__ std::int64_t slot_offset(const Plane& plane, std::int32_t page_size,
                                                                  Slot slot) {
  if (page_size == 1) return slot * plane.page_bytes;
  if (slot <= INT32_MAX) {  // nearly always, and 32-bit division is several times as fast
    const auto narrow = static_cast<std::uint32_t>(slot);
    const auto size = static_cast<std::uint32_t>(page_size);
    return narrow / size * plane.page_bytes + narrow % size * plane.token_bytes;
  }
  return slot / page_size * plane.page_bytes + slot % page_size * plane.token_bytes;
}

/// The run that a block belongs to: the last one that begins at or before it.
[[nodiscard]] __device__ __forceinline__ const Run& find_run(const ReanchorParams& params, std::int32_t block_index) {
  std::int32_t begin = 0;
  std::int32_t end = params.num_runs;
  while (end - begin > 1) {
    const std::int32_t middle = (begin + end) / 2;
    (params.runs[middle].first_block <= block_index ? begin : end) = middle;
  }
  return params.runs[begin];
}

/// token: of the run. layer_index: within the launch.
template <bool kIsKey>
[[nodiscard]] __device__ __forceinline__ TokenPlace place_token(const ReanchorParams& params, const Run& run,
                                                                std::int32_t layer_index, std::int64_t token) {
  TokenPlace place{};
  const Slot target = run.target_slots.slot(token);
  if (target == kSkipSlot) return place;
  const Slot source = run.source_slots.slot(token);
  bool is_sound = true;
  if (!in_range(target, params.target.num_slots) || !in_range(source, run.num_slots)) {
    report_flaw(params.flaws, kBadSlot);
    is_sound = false;
  }
  // The host has checked consecutive positions. Of others the values' token is left out with the keys'.
  if (params.rope.turns() && (kIsKey || run.positions.is_per_token())) {
    place.position = run.positions.position(token);
    if (!in_range(place.position, params.rope.num_positions)) {
      report_flaw(params.flaws, kBadPosition);
      is_sound = false;
    }
  }
  if (!is_sound) return place;
  const Plane& plane = kIsKey ? run.k : run.v;
  place.source_slot = static_cast<std::int32_t>(source);  // read for stored formats, whose slots are tokens
  place.source =
      plane.base + (params.layer_begin + layer_index) * plane.layer_bytes + slot_offset(plane, run.page_size, source);
  place.target = (kIsKey ? params.target.k_layers : params.target.v_layers)[layer_index] +
                 slot_offset(kIsKey ? params.target.k : params.target.v, params.target.page_size, target);
  return place;
}

}  // namespace pikv::kernels
