#include "support/oracle.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace test_support {
namespace {

/// Significand and exponent fields of a format.
struct Format {
  std::int32_t num_bytes;
  std::int32_t significand_bits;
  std::int32_t exponent_bits;
};

Format format_of(pikv::DType dtype) {
  switch (dtype) {
    case pikv::DType::kFloat32:
      return {4, 23, 8};
    case pikv::DType::kFloat16:
      return {2, 10, 5};
    case pikv::DType::kBFloat16:
      return {2, 7, 8};
    case pikv::DType::kFloat8E4M3:
      return {1, 3, 4};
  }
  return {0, 0, 0};
}

}  // namespace

std::int64_t oracle_address(const Placement& placement, Side side, std::int32_t layer, std::int64_t slot,
                            std::int32_t head, std::int32_t dim) {
  const bool is_key = side == Side::kKey;
  const pikv::AxisStrides& strides = is_key ? placement.layout.k : placement.layout.v;
  const std::vector<std::int64_t>& starts = is_key ? placement.k_layer_starts : placement.v_layer_starts;
  const auto [page, token] = std::lldiv(slot, placement.layout.page_size);
  std::int64_t element = is_key ? placement.k_start : placement.v_start;
  element = starts.empty() ? element + layer * strides.layer : starts[static_cast<std::size_t>(layer)];
  const std::pair<std::int64_t, std::int64_t> terms[] = {
      {page, strides.page}, {token, strides.token}, {head, strides.head}, {dim, strides.dim}};
  for (const auto& [index, stride] : terms) element += index * stride;
  return element * format_of(placement.layout.dtype).num_bytes;
}

double oracle_decode(const std::byte* data, pikv::DType dtype) {
  const Format format = format_of(dtype);
  std::uint32_t bits = 0;
  for (std::int32_t i = 0; i < format.num_bytes; ++i) bits |= std::to_integer<std::uint32_t>(data[i]) << (8 * i);
  const std::uint32_t significand = bits & ((1U << format.significand_bits) - 1U);
  const std::uint32_t max_exponent = (1U << format.exponent_bits) - 1U;
  const std::uint32_t exponent = (bits >> format.significand_bits) & max_exponent;
  const bool negative = (bits >> (format.significand_bits + format.exponent_bits)) != 0;
  const std::int32_t bias = static_cast<std::int32_t>(max_exponent / 2);
  double magnitude = 0;
  const bool has_infinities = dtype != pikv::DType::kFloat8E4M3;
  if (!has_infinities && exponent == max_exponent && significand == 7) {
    magnitude = NAN;
  } else if (has_infinities && exponent == max_exponent) {
    magnitude = significand != 0 ? NAN : HUGE_VAL;
  } else if (exponent == 0) {
    magnitude = std::ldexp(significand, 1 - bias - format.significand_bits);
  } else {
    magnitude = std::ldexp((1U << format.significand_bits) + significand,
                           static_cast<std::int32_t>(exponent) - bias - format.significand_bits);
  }
  return negative ? -magnitude : magnitude;
}

double oracle_half_ulp(double value, pikv::DType dtype) {
  const Format format = format_of(dtype);
  const std::int32_t lowest_exponent = 2 - (1 << (format.exponent_bits - 1));
  const std::int32_t exponent = value == 0 ? lowest_exponent : std::max(std::ilogb(value), lowest_exponent);
  return std::ldexp(1.0, exponent - format.significand_bits - 1);
}

OracleValue oracle_turn(const std::vector<double>& head, std::int32_t dim, const OracleRope& rope,
                        std::int32_t position, bool back) {
  const auto half = static_cast<std::int32_t>(rope.frequencies.size());
  const auto channel = [&](std::int32_t d) { return head[static_cast<std::size_t>(d)]; };
  if (dim >= 2 * half) return {channel(dim), 0};
  const std::int32_t pair = rope.interleaved ? dim / 2 : dim % half;
  const bool is_first = rope.interleaved ? dim % 2 == 0 : dim < half;
  const double x = channel(rope.interleaved ? 2 * pair : pair);
  const double y = channel(rope.interleaved ? 2 * pair + 1 : pair + half);
  const double frequency = rope.frequencies[static_cast<std::size_t>(pair)];
  const double angle = rope.fp32_angles
                           ? static_cast<double>(static_cast<float>(position) * static_cast<float>(frequency))
                           : position * frequency;
  const double scale = back ? 1 / rope.magnitude : rope.magnitude;
  const double cos = std::cos(angle) * scale;
  const double sin = std::sin(back ? -angle : angle) * scale;
  const double value = is_first ? x * cos - y * sin : y * cos + x * sin;
  // Each product is off by the rounding of its table value (twice where a magnitude is multiplied on in fp32), of the
  // magnitude, and of the operations: fewer than eight roundings of 2^-24. Double angles are off by less than 2^-34.
  const double terms = is_first ? std::abs(x * cos) + std::abs(y * sin) : std::abs(y * cos) + std::abs(x * sin);
  return {value, terms * 0x1p-21 + (std::abs(x) + std::abs(y)) * scale * 0x1p-33};
}

}  // namespace test_support
