// Which channels turn together.
#pragma once

#include <cstdint>
#include <utility>

#include "pikv/rope.hpp"

namespace pikv {
inline namespace v0 {
namespace check {

[[nodiscard]] constexpr std::pair<std::int32_t, std::int32_t> channels_of(std::int32_t pair, std::int32_t rotary_dim,
                                                                          Pairing pairing) noexcept {
  if (pairing == Pairing::kInterleaved) return {2 * pair, 2 * pair + 1};
  return {pair, pair + rotary_dim / 2};
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
