// A slow re-anchoring in double precision that shares no code with the library: its own decoding, its own addresses out
// of a placement, its own angles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/layouts.hpp"

namespace test_support {

enum class Side : std::uint8_t { kKey, kValue };

/// Where an element of a placement is, in bytes from the buffer's start.
[[nodiscard]] std::int64_t oracle_address(const Placement& placement, Side side, std::int32_t layer, std::int64_t slot,
                                          std::int32_t head, std::int32_t dim);

/// The number that the bits at `data` mean.
[[nodiscard]] double oracle_decode(const std::byte* data, pikv::DType dtype);

/// Half the distance of two neighbours of `value` in a format: the most that one rounding can move it.
[[nodiscard]] double oracle_half_ulp(double value, pikv::DType dtype);

/// How angles come about; frequencies and magnitude belong to the variant.
struct OracleRope {
  std::vector<double> frequencies;  // [r/2]
  double magnitude = 1;
  bool interleaved = false;
  bool fp32_angles = false;  // angle = fp32(position) * fp32(frequency), rounded to fp32
};

struct OracleValue {
  double value;
  double arithmetic_error;  // bound for fp32 arithmetic on fp32 cosines and sines
};

/// Channel `dim` of a key head given as `head` [D], turned to `position`, or back from it.
[[nodiscard]] OracleValue oracle_turn(const std::vector<double>& head, std::int32_t dim, const OracleRope& rope,
                                      std::int32_t position, bool back);

}  // namespace test_support
