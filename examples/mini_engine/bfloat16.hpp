// bf16 is the upper half of an fp32; kept as plain 16-bit words.
#pragma once

#include <bit>
#include <cstdint>

namespace mini_engine {

using BFloat16 = std::uint16_t;

[[nodiscard]] inline float to_float(BFloat16 value) { return std::bit_cast<float>(std::uint32_t{value} << 16); }

/// Rounds to nearest even; a NaN stays a NaN.
[[nodiscard]] inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<BFloat16>((bits >> 16) | 0x40U);
  return static_cast<BFloat16>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace mini_engine
