// Conversions: all halves, all boundaries of rounding, NaN and infinity, and the vector paths against the portable
// ones.
#include "pikv/detail/half.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/select_row_kernels.hpp"
#include "pikv/types.hpp"
#include "support/oracle.hpp"

namespace {

using pikv::DType;

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

float decode(std::uint16_t bits, DType dtype) {
  return dtype == DType::kFloat16 ? pikv::detail::float16_to_float(bits) : pikv::detail::bfloat16_to_float(bits);
}

std::uint16_t encode(float value, DType dtype) {
  return dtype == DType::kFloat16 ? pikv::detail::float_to_float16(value) : pikv::detail::float_to_bfloat16(value);
}

double oracle_decode(std::uint16_t bits, DType dtype) {
  std::byte bytes[2];
  std::memcpy(bytes, &bits, 2);
  return test_support::oracle_decode(bytes, dtype);
}

bool is_nan(std::uint16_t bits, DType dtype) {
  return (bits & 0x7FFFU) > (dtype == DType::kFloat16 ? 0x7C00U : 0x7F80U);
}

constexpr DType kHalves[] = {DType::kFloat16, DType::kBFloat16};

/// Around every value that a 16-bit format can hold and every midpoint between two of them; and random bits.
std::vector<float> interesting_floats() {
  std::vector<float> floats;
  const auto add_around = [&](float value) {
    for (std::uint32_t step = 0; step < 3; ++step) floats.push_back(std::bit_cast<float>(bits_of(value) + step - 1U));
  };
  for (std::uint32_t upper = 0; upper < 0x10000U; ++upper) {
    const auto bits = static_cast<std::uint16_t>(upper);
    for (const DType dtype : kHalves) {
      const float value = decode(bits, dtype);
      add_around(value);
      const float next = decode(static_cast<std::uint16_t>(bits + 1U), dtype);
      if (std::isfinite(value) && std::isfinite(next)) add_around(value / 2 + next / 2);
    }
    add_around(std::bit_cast<float>((upper << 16) | 0x8000U));   // midpoints of bfloat16, the largest one included
    floats.push_back(std::bit_cast<float>((upper << 16) | 1U));  // NaN whose payload lies in the lower half
  }
  add_around(65504.0F);
  add_around(65520.0F);  // from here on fp16 is infinite
  add_around(0x1p-25F);  // half of the smallest fp16
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) floats.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  return floats;
}

TEST_CASE("all 65536 halves decode to what their bits mean, and come back") {
  for (const DType dtype : kHalves) {
    int wrong = 0;
    for (std::uint32_t i = 0; i < 0x10000U; ++i) {
      const auto bits = static_cast<std::uint16_t>(i);
      const float value = decode(bits, dtype);
      if (is_nan(bits, dtype)) {
        const std::uint16_t quiet = static_cast<std::uint16_t>(bits | (dtype == DType::kFloat16 ? 0x200U : 0x40U));
        wrong += !std::isnan(value) || encode(value, dtype) != quiet;
      } else {
        wrong += double{value} != oracle_decode(bits, dtype) || std::signbit(value) != (i >= 0x8000U) ||
                 encode(value, dtype) != bits;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("encoding rounds to nearest, ties to even") {
  for (const DType dtype : kHalves) {
    std::int64_t wrong = 0;
    float worst = 0;
    for (const float value : interesting_floats()) {
      const std::uint16_t bits = encode(value, dtype);
      bool fine = true;
      if (std::isnan(value)) {
        fine = is_nan(bits, dtype) && (bits >> 15) == (bits_of(value) >> 31);
      } else {
        const auto magnitude = static_cast<std::uint16_t>(bits & 0x7FFFU);
        const double exact = std::abs(double{value});
        // Neighbours in the format; beyond the largest number stands the power of two that would follow it.
        const auto number = [&](int candidate) {
          const double limit = dtype == DType::kFloat16 ? 65536.0 : 0x1p128;
          const double decoded = oracle_decode(static_cast<std::uint16_t>(candidate), dtype);
          return std::isinf(decoded) ? limit : decoded;
        };
        const double error = std::isinf(value) ? 0 : std::abs(number(magnitude) - exact);
        if (std::isinf(value)) {
          fine = std::isinf(oracle_decode(magnitude, dtype));
        } else {
          for (const int neighbour : {magnitude - 1, magnitude + 1}) {
            if (neighbour < 0 || is_nan(static_cast<std::uint16_t>(neighbour), dtype)) continue;
            const double other = std::abs(number(neighbour) - exact);
            const bool beyond_infinity = std::isinf(oracle_decode(magnitude, dtype)) && exact >= number(magnitude);
            fine = fine && (beyond_infinity || error < other || (error == other && magnitude % 2 == 0));
          }
        }
        fine = fine && (bits >> 15 != 0) == std::signbit(value);
      }
      if (!fine) {
        ++wrong;
        worst = value;
      }
    }
    CAPTURE(worst);
    CAPTURE(bits_of(worst));
    CHECK(wrong == 0);
  }
}

TEST_CASE("the vector conversions of every instruction set give the same bits") {
  const std::vector<float> floats = interesting_floats();
  const auto count = static_cast<std::int64_t>(floats.size());
  for (const pikv::cpu::RowKernels* kernels : pikv::cpu::supported_row_kernels()) {
    CAPTURE(kernels->name);
    for (const DType dtype : kHalves) {
      CAPTURE(pikv::dtype_name(dtype));
      const auto half_index = static_cast<std::size_t>(dtype);
      std::vector<std::uint16_t> encoded(floats.size());
      kernels->elements[pikv::cpu::kCached][0][half_index](reinterpret_cast<const std::byte*>(floats.data()),
                                                           reinterpret_cast<std::byte*>(encoded.data()), count);
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < floats.size(); ++i) wrong += encoded[i] != encode(floats[i], dtype);
      CHECK(wrong == 0);

      std::vector<std::uint16_t> halves(0x10000);
      for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
      std::vector<float> decoded(halves.size());
      kernels->elements[pikv::cpu::kCached][half_index][0](reinterpret_cast<const std::byte*>(halves.data()),
                                                           reinterpret_cast<std::byte*>(decoded.data()), 0x10000);
      wrong = 0;
      for (std::size_t i = 0; i < halves.size(); ++i) wrong += bits_of(decoded[i]) != bits_of(decode(halves[i], dtype));
      CHECK(wrong == 0);
    }
  }
}

}  // namespace
