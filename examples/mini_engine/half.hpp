// IEEE half precision to fp32, exactly and without branches, so that loops over it vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace mini_engine {

/// Subnormals, infinities and NaN payloads are kept.
[[nodiscard]] inline float half_to_float(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7FFFU) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  // Read as fp32, the shifted bits are off by the difference of the exponent biases, 127 - 15; a multiplication puts
  // that right for normal and subnormal numbers alike.
  const auto scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  // Infinity and NaN have come out as large numbers with the same fraction; all they lack is the full exponent.
  const std::uint32_t full_exponent = magnitude >= 0x0F800000U ? 0x7F800000U : 0U;
  return std::bit_cast<float>(sign | scaled | full_exponent);
}

}  // namespace mini_engine
