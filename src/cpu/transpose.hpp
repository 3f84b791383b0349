// Rows of channels out of, and into, planes whose channels are not adjacent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Element d of source[i] to target[i], for all d in [0, num_channels) and i in [0, num_rows). A step is the distance
/// of neighbouring channels in bytes. Channels are the outer loop, so that rows whose strided sides lie beside one
/// another share cache lines.
template <std::int64_t kElementBytes>
void transpose_elements(const std::byte* const* source, std::int64_t source_step, std::byte* const* target,
                        std::int64_t target_step, std::size_t num_rows, std::int64_t num_channels) noexcept {
  for (std::int64_t d = 0; d < num_channels; ++d) {
    for (std::size_t i = 0; i < num_rows; ++i) {
      std::memcpy(target[i] + d * target_step, source[i] + d * source_step, kElementBytes);
    }
  }
}

/// The same for elements of 2 or 4 bytes.
inline void transpose_rows(std::int64_t element_bytes, const std::byte* const* source, std::int64_t source_step,
                           std::byte* const* target, std::int64_t target_step, std::size_t num_rows,
                           std::int64_t num_channels) noexcept {
  const auto transpose = element_bytes == 2 ? transpose_elements<2> : transpose_elements<4>;
  transpose(source, source_step, target, target_step, num_rows, num_channels);
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
