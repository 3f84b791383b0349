// Checks that transfers and encodings share. `field` heads every message: "KvTransfer: runs[3].target_slots".
#pragma once

#include <cstdint>
#include <string>

#include "pikv/backend.hpp"

namespace pikv::detail {

[[nodiscard]] Status refuse(const std::string& field, std::int64_t value, const std::string& rule);

/// The view itself, its space, and that channels of fp8 are adjacent.
[[nodiscard]] Status check_view(const std::string& field, const ConstKvView& view, const KvGeometry& geometry,
                                const BackendCaps& caps);
/// The slab itself, and its space.
[[nodiscard]] Status check_slab(const std::string& field, const ConstSlabView& slab, const KvGeometry& geometry,
                                const BackendCaps& caps);

/// A range [begin, end) of the geometry's layers. owner: "KvTransfer".
[[nodiscard]] Status check_layers(const std::string& owner, std::int32_t begin, std::int32_t end,
                                  const KvGeometry& geometry);
[[nodiscard]] Status check_rope(const std::string& owner, const RopeTableView& rope, const KvGeometry& geometry);

/// Shape of the map, and the range of slots where it can be known without reading an array.
[[nodiscard]] Status check_map(const std::string& field, const SlotMap& map, std::int64_t num_slots);
/// Entries of a page table in host memory. Pages are checked, not slots: a negative page could look like kSkipSlot.
[[nodiscard]] Status check_pages(const std::string& field, const SlotMap& map, std::int64_t num_slots);

/// What can be known without reading an array. Requires: num_tokens > 0.
[[nodiscard]] Status check_positions(const std::string& field, const PositionMap& positions, std::int64_t num_tokens,
                                     const RopeTableView& rope);

/// Un-anchoring reads views only: refuses runs with a slab. Backends call it after validate().
[[nodiscard]] Status check_unanchor(const KvTransfer& transfer);

}  // namespace pikv::detail
