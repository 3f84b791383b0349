// Checks that everything shares which computes on rows where they stand. `field` heads every message:
// "DeviationScoring: cached_slots"; `owner` is its part up to the name: "DeviationScoring: ".
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "pikv/backend.hpp"
#include "pikv/status.hpp"

namespace pikv::detail {

inline constexpr std::int32_t kMaxHeadDim = 256;
inline constexpr std::int64_t kMaxRows = std::numeric_limits<std::int32_t>::max();

/// Not null unless empty.
template <class T>
[[nodiscard]] Status check_array(const std::string& field, std::span<T> array) {
  if (array.data() != nullptr || array.empty()) return {};
  return invalid_argument(field + " is null with " + std::to_string(array.size()) + " elements");
}

template <class T>
[[nodiscard]] Status check_size(const std::string& field, std::span<T> array, std::int64_t needed) {
  PIKV_TRY(check_array(field, array));
  if (array.size() == static_cast<std::size_t>(needed)) return {};
  return invalid_argument(field + " has " + std::to_string(array.size()) + " elements, " + std::to_string(needed) +
                          " are needed");
}

/// Whatever its dtype says; heads of at most kMaxHeadDim.
[[nodiscard]] Status check_row_geometry(const std::string& owner, KvGeometry geometry);
[[nodiscard]] Status check_layer(const std::string& owner, std::int32_t layer, const KvGeometry& geometry);
/// A view of any type but fp8.
[[nodiscard]] Status check_rows_view(const std::string& field, const ConstKvView& view, const KvGeometry& geometry,
                                     const BackendCaps& caps);
[[nodiscard]] Status check_row_map(const std::string& field, const SlotMap& map, std::int64_t num_slots);
[[nodiscard]] Status check_finite(const std::string& field, float value);

/// Every slot of a map in host memory; none may be skipped. Requires: check_row_map().
[[nodiscard]] Status check_slots(const std::string& field, const SlotMap& map, std::int64_t num_slots);

/// Fresh rows as a view of one layer, which is all that is said about them.
[[nodiscard]] ConstKvView single_layer(const ConstKvView& view) noexcept;

}  // namespace pikv::detail
