// Conversions between fp32 and fp8 e4m3 (OCP 8-bit floating point: no infinities, one NaN pattern per sign, largest
// finite 448): to nearest, ties to even, saturating. Portable bit arithmetic; what GPUs convert in hardware agrees.
#pragma once

#include <cstdint>

#include "pikv/detail/bits.hpp"
#include "pikv/version.hpp"

namespace pikv::detail {

inline constexpr float kFloat8E4M3Max = 448.0F;

[[nodiscard]] PIKV_HOST_DEVICE constexpr float float8_e4m3_to_float(std::uint8_t bits) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80U) << 24;
  const std::uint32_t magnitude = bits & 0x7FU;
  if (magnitude == 0x7FU) return bit_cast<float>(sign | 0x7FC00000U);
  if (magnitude >= 8) return bit_cast<float>(sign | ((magnitude << 20) + (120U << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-9F;  // or zero; exact
  return bit_cast<float>(sign | bit_cast<std::uint32_t>(subnormal));
}

/// Beyond 448, infinities included: 448 of the same sign. NaN: 0x7F.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint8_t float_to_float8_e4m3(float value) noexcept {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return 0x7F;
  if (magnitude >= 0x43E00000U) return static_cast<std::uint8_t>(sign | 0x7EU);  // 448 and more
  if (magnitude < 0x3C800000U) {  // below 2^-6, subnormal: let fp32 addition round at weight 2^-9
    const float shifted = bit_cast<float>(magnitude) + 0x1p14F;
    return static_cast<std::uint8_t>(sign | (bit_cast<std::uint32_t>(shifted) - 0x46800000U));
  }
  const std::uint32_t ties_to_even = 0x7FFFFU + ((magnitude >> 20) & 1U);
  const std::uint32_t rounded = (magnitude + ties_to_even - (120U << 23)) >> 20;
  return static_cast<std::uint8_t>(sign | (rounded > 0x7EU ? 0x7EU : rounded));
}

}  // namespace pikv::detail
