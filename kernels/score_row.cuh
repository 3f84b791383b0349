// Where a row that is scored stands.
#pragma once

#include <cstddef>
#include <cstdint>

#include "score_params.hpp"
#include "token_place.cuh"

namespace pikv::kernels {

/// Head 0, channel 0; null: the map names a slot that does not exist. Requires: row is one of the map's.
template <bool kIsKey>
[[nodiscard]] __device__ __forceinline__ const std::byte* row_address(const ScoredRows& rows, std::uint32_t row) {
  const Slot slot = slot_of(rows.slots, rows.table_page, row);
  if (!in_range(slot, rows.num_slots)) return nullptr;
  const Plane& plane = kIsKey ? rows.k : rows.v;
  return plane.base + slot_offset(plane, rows.page_size, static_cast<std::uint32_t>(slot));
}

}  // namespace pikv::kernels
