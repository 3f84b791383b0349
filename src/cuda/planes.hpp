// Planes and divisors, as kernels are told of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/params.hpp"
#include "pikv/geometry.hpp"

namespace pikv::detail {

[[nodiscard]] inline kernels::Plane plane_of(const std::byte* base, const AxisStrides& strides, DType dtype) noexcept {
  const std::int64_t bytes = dtype_bytes(dtype);
  return kernels::Plane{.base = base,
                        .layer_bytes = strides.layer * bytes,
                        .page_bytes = static_cast<std::uint32_t>(strides.page * bytes),
                        .token_bytes = static_cast<std::uint32_t>(strides.token * bytes),
                        .head_bytes = static_cast<std::uint32_t>(strides.head * bytes),
                        .dim_bytes = static_cast<std::uint32_t>(strides.dim * bytes)};
}

[[nodiscard]] inline kernels::Divisor divisor_of(std::int32_t value) noexcept {
  return kernels::Divisor::of(static_cast<std::uint32_t>(std::max(value, 1)));
}

[[nodiscard]] inline bool is_aligned(const void* address, std::int64_t alignment) noexcept {
  return reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(alignment) == 0;
}

/// Whether every row of every head begins at a multiple of `alignment`.
[[nodiscard]] inline bool is_aligned(const kernels::Plane& plane, const kernels::Divisor& page_size,
                                     std::int64_t alignment) noexcept {
  return is_aligned(plane.base, alignment) && plane.layer_bytes % alignment == 0 && plane.page_bytes % alignment == 0 &&
         (page_size.value == 1 || plane.token_bytes % alignment == 0) && plane.head_bytes % alignment == 0;
}

}  // namespace pikv::detail
