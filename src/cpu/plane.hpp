// K or V of one layer, seen in bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pikv/geometry.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

template <class Byte>
struct Plane {
  Byte* base = nullptr;
  std::int64_t page_bytes = 0;
  std::int64_t token_bytes = 0;
  std::int64_t head_bytes = 0;
  std::int64_t dim_bytes = 0;
  std::int64_t element_bytes = 0;
  std::int32_t page_size = 1;
  DType dtype = DType::kFloat32;

  Plane(Byte* layer_base, const AxisStrides& strides, const KvLayout& layout) noexcept
      : base(layer_base),
        page_bytes(strides.page * dtype_bytes(layout.dtype)),
        token_bytes(strides.token * dtype_bytes(layout.dtype)),
        head_bytes(strides.head * dtype_bytes(layout.dtype)),
        dim_bytes(strides.dim * dtype_bytes(layout.dtype)),
        element_bytes(dtype_bytes(layout.dtype)),
        page_size(layout.page_size),
        dtype(layout.dtype) {}

  /// Head 0, channel 0 of a slot.
  [[nodiscard]] Byte* token(Slot slot) const noexcept {
    if (page_size == 1) return base + slot * page_bytes;
    return base + slot / page_size * page_bytes + slot % page_size * token_bytes;
  }
  [[nodiscard]] bool has_adjacent_channels() const noexcept { return dim_bytes == element_bytes; }
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
