// The arithmetic of the stored formats (pikv/slab.hpp), one element at a time: every backend, host or device, performs
// exactly these operations, which is what makes their codes and their decoded values equal bit for bit.
//
// Products of a code and an fp16 scale are exact in fp32, so decoding rounds once where a minimum or a bias is added
// and never elsewhere. NaN becomes 0 (int8) or the group's minimum (int4); infinities saturate; neither takes part in
// finding a scale.
#pragma once

#include <cmath>
#include <cstdint>

#include "pikv/detail/bits.hpp"
#include "pikv/detail/float8.hpp"
#include "pikv/detail/half.hpp"
#include "pikv/version.hpp"

namespace pikv::detail {

[[nodiscard]] PIKV_HOST_DEVICE constexpr bool is_finite(float value) noexcept {
  return (bit_cast<std::uint32_t>(value) & 0x7F800000U) != 0x7F800000U;
}

/// The smallest fp16 number not below `value`, at most the largest finite one. Requires: value >= 0, finite.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint16_t float16_not_below(float value) noexcept {
  constexpr std::uint16_t kMax = 0x7BFF;
  if (value >= 65504.0F) return kMax;
  const std::uint16_t nearest = float_to_float16(value);
  return float16_to_float(nearest) < value ? static_cast<std::uint16_t>(nearest + 1) : nearest;
}

/// The largest fp16 number not above `value`, within the finite ones. Requires: finite.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint16_t float16_not_above(float value) noexcept {
  if (value >= 65504.0F) return 0x7BFF;
  if (value <= -65504.0F) return 0xFBFF;
  const std::uint16_t nearest = float_to_float16(value);
  if (!(float16_to_float(nearest) > value)) return nearest;
  if ((nearest & 0x7FFFU) == 0) return 0x8001;  // below zero comes the smallest negative subnormal
  return static_cast<std::uint16_t>((nearest & 0x8000U) != 0 ? nearest + 1 : nearest - 1);
}

// fp8 e4m3: one fp32 scale for each layer and head of a chunk.

[[nodiscard]] PIKV_HOST_DEVICE constexpr float float8_scale(float largest_magnitude) noexcept {
  const float scale = largest_magnitude / kFloat8E4M3Max;
  return scale > 0 ? scale : 1.0F;  // all zeros, or so small that the quotient is
}
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint8_t encode_float8(float value, float scale) noexcept {
  return float_to_float8_e4m3(value / scale);
}
[[nodiscard]] PIKV_HOST_DEVICE constexpr float decode_float8(std::uint8_t code, float scale) noexcept {
  return float8_e4m3_to_float(code) * scale;
}

// int8: codes in [-127, 127], symmetric about 0.

[[nodiscard]] PIKV_HOST_DEVICE constexpr std::uint16_t int8_scale(float largest_magnitude) noexcept {
  return float16_not_below(largest_magnitude / 127.0F);
}
[[nodiscard]] PIKV_HOST_DEVICE inline std::int8_t encode_int8(float value, float scale) noexcept {
  if (!(scale > 0) || value != value) return 0;
  const float steps = std::rint(value / scale);
  return static_cast<std::int8_t>(steps > 127.0F ? 127.0F : steps < -127.0F ? -127.0F : steps);
}
[[nodiscard]] PIKV_HOST_DEVICE constexpr float decode_int8(std::int8_t code, float scale) noexcept {
  return static_cast<float>(code) * scale;
}

// int4: codes in [0, 15] above a group's minimum.

struct Int4Group {
  std::uint16_t scale;    ///< fp16
  std::uint16_t minimum;  ///< fp16
};

[[nodiscard]] PIKV_HOST_DEVICE constexpr Int4Group int4_group(float minimum, float maximum) noexcept {
  const std::uint16_t low = float16_not_above(minimum + 0.0F);  // a zero without sign, whichever came first
  const float range = maximum - float16_to_float(low);
  return {float16_not_below(range > 0 ? range / 15.0F : 0.0F), low};
}
[[nodiscard]] PIKV_HOST_DEVICE inline std::uint8_t encode_int4(float value, float scale, float minimum) noexcept {
  if (!(scale > 0) || value != value) return 0;
  const float steps = std::rint((value - minimum) / scale);
  return static_cast<std::uint8_t>(steps > 15.0F ? 15.0F : steps < 0.0F ? 0.0F : steps);
}
[[nodiscard]] PIKV_HOST_DEVICE inline float decode_int4(std::uint8_t code, float scale, float minimum) noexcept {
  return std::fma(static_cast<float>(code), scale, minimum);
}

}  // namespace pikv::detail
