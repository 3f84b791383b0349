// What is compared: a stored format, whether keys are brought into it before or after rotary embedding, and whether
// values are brought into it as well.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "pikv/slab.hpp"
#include "pikv/types.hpp"

namespace lab {

enum class KeyFrame : std::uint8_t {
  kBeforeRope,  ///< as pikv stores keys
  kAfterRope,   ///< as engines keep them: turned to positions, then encoded
};

enum class Values : std::uint8_t {
  kInFormat,  ///< as pikv stores them
  kInBf16,    ///< so that what is measured is the keys' share
};

struct Arm {
  pikv::SlabFormat format;
  pikv::DType plain_dtype;  ///< of kPlain
  KeyFrame frame;
  Values values = Values::kInFormat;

  friend constexpr bool operator==(const Arm&, const Arm&) = default;
};

/// All arms: fp32 as the control, bf16 as the reference, and the lossy formats, with values and without.
inline constexpr std::array<Arm, 15> kArms = {{
    {pikv::SlabFormat::kPlain, pikv::DType::kFloat32, KeyFrame::kBeforeRope},
    {pikv::SlabFormat::kPlain, pikv::DType::kBFloat16, KeyFrame::kBeforeRope},
    {pikv::SlabFormat::kPlain, pikv::DType::kBFloat16, KeyFrame::kAfterRope},
    {pikv::SlabFormat::kFloat8, pikv::DType::kBFloat16, KeyFrame::kBeforeRope},
    {pikv::SlabFormat::kFloat8, pikv::DType::kBFloat16, KeyFrame::kAfterRope},
    {pikv::SlabFormat::kInt8, pikv::DType::kBFloat16, KeyFrame::kBeforeRope},
    {pikv::SlabFormat::kInt8, pikv::DType::kBFloat16, KeyFrame::kAfterRope},
    {pikv::SlabFormat::kInt4, pikv::DType::kBFloat16, KeyFrame::kBeforeRope},
    {pikv::SlabFormat::kInt4, pikv::DType::kBFloat16, KeyFrame::kAfterRope},
    {pikv::SlabFormat::kFloat8, pikv::DType::kBFloat16, KeyFrame::kBeforeRope, Values::kInBf16},
    {pikv::SlabFormat::kFloat8, pikv::DType::kBFloat16, KeyFrame::kAfterRope, Values::kInBf16},
    {pikv::SlabFormat::kInt8, pikv::DType::kBFloat16, KeyFrame::kBeforeRope, Values::kInBf16},
    {pikv::SlabFormat::kInt8, pikv::DType::kBFloat16, KeyFrame::kAfterRope, Values::kInBf16},
    {pikv::SlabFormat::kInt4, pikv::DType::kBFloat16, KeyFrame::kBeforeRope, Values::kInBf16},
    {pikv::SlabFormat::kInt4, pikv::DType::kBFloat16, KeyFrame::kAfterRope, Values::kInBf16},
}};
inline constexpr std::size_t kControlArm = 0;
inline constexpr std::size_t kReferenceArm = 1;

/// The names used in tables and JSON.
[[nodiscard]] inline std::string format_name(const Arm& arm) {
  if (arm.format != pikv::SlabFormat::kPlain) return pikv::slab_format_name(arm.format);
  return arm.plain_dtype == pikv::DType::kFloat32 ? "fp32" : "bf16";
}
[[nodiscard]] constexpr const char* frame_name(KeyFrame frame) {
  return frame == KeyFrame::kBeforeRope ? "before" : "after";
}
[[nodiscard]] constexpr const char* parts_name(Values values) {
  return values == Values::kInFormat ? "keys and values" : "keys alone";
}

}  // namespace lab
