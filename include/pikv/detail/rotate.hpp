// The one place where pikv rotates: every backend, host or device, scalar or vector, performs exactly these operations
// in this order, which is what makes their results equal bit for bit.
#pragma once

#include <cmath>

#include "pikv/version.hpp"

namespace pikv::detail {

struct RotatedPair {
  float first;
  float second;
};

/// (first, second) turned by the angle of (cos, sin): one rounded product, then one fused multiply-add, per output.
/// This is how compilers contract x*c - y*s in the engines whose keys pikv reproduces.
[[nodiscard]] PIKV_HOST_DEVICE inline RotatedPair rotate(float first, float second, float cos, float sin) noexcept {
  return RotatedPair{std::fma(first, cos, -(second * sin)), std::fma(second, cos, first * sin)};
}

/// The inverse of rotate() up to rounding, where (cos, sin) of the table carry a magnitude m and `inverse_square` is
/// 1/m^2 (1 for every variant without an attention factor, for which the last product is exact).
[[nodiscard]] PIKV_HOST_DEVICE inline RotatedPair unrotate(float first, float second, float cos, float sin,
                                                           float inverse_square) noexcept {
  return RotatedPair{std::fma(first, cos, second * sin) * inverse_square,
                     std::fma(second, cos, -(first * sin)) * inverse_square};
}

}  // namespace pikv::detail
