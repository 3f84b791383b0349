// std::bit_cast where device code needs it too.
#pragma once

#include "pikv/version.hpp"

namespace pikv::detail {

template <class To, class From>
[[nodiscard]] PIKV_HOST_DEVICE constexpr To bit_cast(const From& value) noexcept {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

}  // namespace pikv::detail
