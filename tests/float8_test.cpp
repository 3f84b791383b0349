// fp8 e4m3 and the one-element arithmetic of the stored formats, against tables and double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "pikv/detail/quantize.hpp"
#include "support/compare.hpp"
#include "support/slab_oracle.hpp"

namespace {

using pikv::DType;
using pikv::detail::float16_to_float;
using test_support::Comparison;

/// Every finite positive value of the format, by its definition: 1.m * 2^(e - 7), 0.m * 2^-6.
std::vector<double> float8_magnitudes() {
  std::vector<double> values;
  for (int code = 0; code < 0x7F; ++code) {
    const int exponent = code / 8;
    const int significand = code % 8;
    values.push_back(exponent == 0 ? std::ldexp(significand, -9) : std::ldexp(8 + significand, exponent - 10));
  }
  return values;
}

TEST_CASE("all codes of fp8 mean what the format says, and come back") {
  const std::vector<double> magnitudes = float8_magnitudes();
  CHECK(magnitudes.back() == 448);
  for (int code = 0; code < 256; ++code) {
    const float value = pikv::detail::float8_e4m3_to_float(static_cast<std::uint8_t>(code));
    const int magnitude = code & 0x7F;
    if (magnitude == 0x7F) {
      CHECK(std::isnan(value));
      CHECK(pikv::detail::float_to_float8_e4m3(value) == 0x7F);
      continue;
    }
    CHECK(std::abs(value) == magnitudes[static_cast<std::size_t>(magnitude)]);
    CHECK(std::signbit(value) == (code >= 0x80));
    CHECK(pikv::detail::float_to_float8_e4m3(value) == code);
  }
}

/// The nearest value by search, ties to the even code, saturating.
int nearest_code(double value, const std::vector<double>& magnitudes) {
  const double magnitude = std::abs(value);
  int best = 0;
  for (int code = 1; code < 0x7F; ++code) {
    const double distance = std::abs(magnitudes[static_cast<std::size_t>(code)] - magnitude);
    const double least = std::abs(magnitudes[static_cast<std::size_t>(best)] - magnitude);
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  if (magnitude >= 448) best = 0x7E;
  return best | (std::signbit(value) ? 0x80 : 0);
}

TEST_CASE("all bf16 numbers, halfway points and their neighbours become the nearest code of fp8") {
  const std::vector<double> magnitudes = float8_magnitudes();
  Comparison comparison("float_to_float8_e4m3");
  const auto check = [&](float value) {
    const int expected = std::isnan(value) ? 0x7F : nearest_code(value, magnitudes);
    const auto place = [&] { return std::to_string(value); };
    comparison.expect_same_bits(pikv::detail::float_to_float8_e4m3(value), static_cast<std::uint64_t>(expected), place);
    comparison.expect_same_bits(test_support::oracle_bits(value, DType::kFloat8E4M3),
                                static_cast<std::uint64_t>(expected), place);
  };
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) check(std::bit_cast<float>(bits << 16));
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (std::size_t code = 0; code + 1 < magnitudes.size(); ++code) {
    const auto halfway = static_cast<float>((magnitudes[code] + magnitudes[code + 1]) / 2);  // exact
    for (const float value : {halfway, std::nextafter(halfway, 0.0F), std::nextafter(halfway, kInfinity)}) {
      check(value);
      check(-value);
    }
  }
  for (const float value : {448.0F, 464.0F, 480.0F, 1e30F, kInfinity}) {
    CHECK(pikv::detail::float_to_float8_e4m3(value) == 0x7E);
    CHECK(pikv::detail::float_to_float8_e4m3(-value) == 0xFE);
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
}

/// Whether `bits` is the fp16 number next to `value` on the asked side, by looking at its neighbours.
bool is_bound(std::uint16_t bits, float value, bool from_above) {
  const double got = float16_to_float(bits);
  const double wanted = std::clamp(double{value}, -65504.0, 65504.0);
  if (!(std::abs(got) <= 65504)) return false;
  if (from_above ? got < wanted : got > wanted) return false;
  const double magnitude = std::abs(got);
  const double step = magnitude < 0x1p-14 ? 0x1p-24 : std::ldexp(1.0, std::ilogb(magnitude) - 10);
  // Towards zero the step of a power of two is half of that away from it.
  const bool towards_zero = from_above == (got > 0);
  const bool is_power = magnitude > 0x1p-14 && magnitude == std::ldexp(1.0, std::ilogb(magnitude));
  const double next = got + (from_above ? -1 : 1) * (towards_zero && is_power ? step / 2 : step);
  return from_above ? next < wanted : next > wanted;
}

TEST_CASE("fp16 bounds from above and below are the nearest ones") {
  std::int64_t num_wrong = 0;
  const auto check = [&](float value) {
    if (!std::isfinite(value)) return;
    if (value >= 0 && !is_bound(pikv::detail::float16_not_below(value), value, true)) ++num_wrong;
    if (!is_bound(pikv::detail::float16_not_above(value), value, false)) ++num_wrong;
  };
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float half = float16_to_float(static_cast<std::uint16_t>(bits));
    if (!std::isfinite(half)) continue;
    check(half);
    if (half >= 0) CHECK(float16_to_float(pikv::detail::float16_not_below(half)) == half);
    CHECK(float16_to_float(pikv::detail::float16_not_above(half)) == half);
    check(std::nextafter(half, std::numeric_limits<float>::infinity()));
    check(std::nextafter(half, -std::numeric_limits<float>::infinity()));
  }
  std::mt19937 random(5);
  for (int i = 0; i < 2'000'000; ++i) check(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (const float value : {65504.0F, 65505.0F, 70000.0F, std::numeric_limits<float>::max()}) {
    check(value);
    check(-value);
  }
  CHECK(num_wrong == 0);
}

TEST_CASE("codes of numbers that are not finite") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  CHECK(pikv::detail::encode_int8(kNan, 1) == 0);
  CHECK(pikv::detail::encode_int8(kInfinity, 1) == 127);
  CHECK(pikv::detail::encode_int8(-kInfinity, 1) == -127);
  CHECK(pikv::detail::encode_int8(3, 0) == 0);
  CHECK(pikv::detail::encode_int4(kNan, 1, -4) == 0);
  CHECK(pikv::detail::encode_int4(kInfinity, 1, -4) == 15);
  CHECK(pikv::detail::encode_int4(-kInfinity, 1, -4) == 0);
  CHECK(pikv::detail::float8_scale(0) == 1);
}

}  // namespace
