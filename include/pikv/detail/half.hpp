// Conversions between fp32 and the 16-bit formats: round to nearest, ties to even, NaN stays NaN. Portable bit
// arithmetic, the same on host and device; vector paths elsewhere must agree with these bit for bit.
#pragma once

#include <cstdint>

#include "pikv/detail/bits.hpp"
#include "pikv/version.hpp"

namespace pikv::detail {

[[nodiscard]] PIKV_HOST_DEVICE constexpr float bfloat16_to_float(std::uint16_t bits) noexcept {
  return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint16_t float_to_bfloat16(float value) noexcept {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x0040U);  // quiet NaN
  const std::uint32_t ties_to_even = 0x7FFFU + ((bits >> 16) & 1U);
  return static_cast<std::uint16_t>((bits + ties_to_even) >> 16);
}

[[nodiscard]] PIKV_HOST_DEVICE constexpr float float16_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1FU) {  // infinity, or NaN made quiet as the hardware does
    return bit_cast<float>(sign | 0x7F800000U | (mantissa << 13) | (mantissa != 0 ? 0x00400000U : 0U));
  }
  if (exponent != 0) return bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // subnormal or zero, exact in fp32
  return bit_cast<float>(sign | bit_cast<std::uint32_t>(magnitude));
}

[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint16_t float_to_float16(float value) noexcept {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {  // NaN keeps the top of its payload and becomes quiet
    return static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
  }
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds beyond 65504
  if (magnitude < 0x38800000U) {  // subnormal in fp16: let fp32 addition round at weight 2^-24
    const float shifted = bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t ties_to_even = 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((magnitude + ties_to_even - 0x38000000U) >> 13));
}

}  // namespace pikv::detail
