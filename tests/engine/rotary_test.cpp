#include <doctest/doctest.h>

#include <cmath>

#include "mini_engine/error.hpp"
#include "mini_engine/model.hpp"

namespace {

using mini_engine::make_rotary_table;
using mini_engine::RopeParameters;
using mini_engine::RopeScaling;
using mini_engine::RotaryTable;

TEST_CASE("a table is cos and sin of the fp32 product of position and frequency") {
  RopeParameters rope;
  rope.theta = 500000.0;
  const RotaryTable table = make_rotary_table(rope, 128, 4000);
  REQUIRE(table.num_positions == 4000);
  REQUIRE(table.inverse_frequencies.size() == 64);
  REQUIRE(table.cos.size() == 4000U * 64U);
  REQUIRE(table.sin.size() == 4000U * 64U);
  CHECK(table.inverse_frequencies[0] == 1.0F);
  for (const std::size_t position : {0U, 1U, 77U, 3999U}) {
    for (std::size_t i = 0; i < 64; ++i) {
      const float angle = static_cast<float>(position) * table.inverse_frequencies[i];
      CHECK(table.cos[position * 64 + i] == static_cast<float>(std::cos(double{angle})));
      CHECK(table.sin[position * 64 + i] == static_cast<float>(std::sin(double{angle})));
    }
  }
  for (std::size_t i = 0; i < 64; ++i) {
    const double exact = std::pow(500000.0, -2.0 * static_cast<double>(i) / 128.0);
    // theta^(2i/D) and its reciprocal are each rounded once.
    CHECK(double{table.inverse_frequencies[i]} == doctest::Approx(exact).epsilon(2e-7));
  }
}

TEST_CASE("scaling rules") {
  RopeParameters rope;
  const RotaryTable plain = make_rotary_table(rope, 64, 1);
  rope.scaling = RopeScaling::kLinear;
  rope.factor = 8.0;
  const RotaryTable linear = make_rotary_table(rope, 64, 1);
  for (std::size_t i = 0; i < 32; ++i) CHECK(linear.inverse_frequencies[i] == plain.inverse_frequencies[i] / 8.0F);

  rope.scaling = RopeScaling::kLlama3;
  rope.original_max_positions = 1024;
  const RotaryTable llama3 = make_rotary_table(rope, 64, 1);
  int num_kept = 0, num_slowed = 0, num_blended = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    const float before = plain.inverse_frequencies[i], after = llama3.inverse_frequencies[i];
    const double turns = 1024.0 * double{before} / 6.283185307179586;
    if (after == before) {
      ++num_kept;
      CHECK(turns > 3.999);
    } else if (after == before / 8.0F) {
      ++num_slowed;
      CHECK(turns < 1.001);
    } else {
      ++num_blended;
      CHECK(after > before / 8.0F);
      CHECK(after < before);
    }
  }
  CHECK(num_kept > 0);
  CHECK(num_slowed > 0);
  CHECK(num_blended > 0);

  rope.frequency_divisors.assign(32, 2.0F);
  rope.frequency_divisors[5] = 3.0F;
  const RotaryTable divided = make_rotary_table(rope, 64, 1);
  CHECK(divided.inverse_frequencies[4] == plain.inverse_frequencies[4] / 2.0F);
  CHECK(divided.inverse_frequencies[5] == plain.inverse_frequencies[5] / 3.0F);
}

TEST_CASE("tables that cannot be made") {
  RopeParameters rope;
  CHECK_THROWS_AS((void)make_rotary_table(rope, 63, 1), mini_engine::Error);
  CHECK_THROWS_AS((void)make_rotary_table(rope, 0, 1), mini_engine::Error);
  CHECK_THROWS_AS((void)make_rotary_table(rope, 64, 0), mini_engine::Error);
  rope.frequency_divisors.assign(31, 1.0F);
  CHECK_THROWS_AS((void)make_rotary_table(rope, 64, 1), mini_engine::Error);
}

}  // namespace
