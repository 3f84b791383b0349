// How a chunk's slab [L][2 (K, V)][T][H][D] reads as a KV view whose slots are the chunk's tokens.
#pragma once

#include <cstdint>

#include "pikv/geometry.hpp"

namespace pikv::detail {

/// slab: num_tokens * geometry.bytes_per_token() bytes in `space`, not null.
template <class Byte>
[[nodiscard]] constexpr BasicKvView<Byte> slab_view(const KvGeometry& geometry, std::int64_t num_tokens, Byte* slab,
                                                    MemorySpace space) noexcept {
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  const AxisStrides strides{
      .layer = 2 * num_tokens * row, .page = row, .token = row, .head = geometry.head_dim, .dim = 1};
  return BasicKvView<Byte>{
      .layout = {.dtype = geometry.dtype, .page_size = 1, .k = strides, .v = strides},
      .k_base = slab,
      .v_base = slab + num_tokens * row * dtype_bytes(geometry.dtype),
      .num_slots = num_tokens,
      .space = space,
  };
}

}  // namespace pikv::detail
