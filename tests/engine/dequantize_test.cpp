// Decoding of every encoding, against a reference in double written element by element from the formats' definition,
// and against what another implementation decodes.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/half.hpp"
#include "mini_engine/model_file.hpp"
#include "support/tiny_model.hpp"

namespace {

using mini_engine::dequantize;
using mini_engine::Encoding;
using mini_engine::TensorView;

struct EncodingCase {
  Encoding encoding;
  const char* name;
  int elements;  // per block
  int bytes;
};
constexpr EncodingCase kEncodings[] = {
    {Encoding::kF32, "F32", 1, 4},       {Encoding::kF16, "F16", 1, 2},     {Encoding::kBF16, "BF16", 1, 2},
    {Encoding::kQ8_0, "Q8_0", 32, 34},   {Encoding::kQ4_0, "Q4_0", 32, 18}, {Encoding::kQ4_1, "Q4_1", 32, 20},
    {Encoding::kQ5_0, "Q5_0", 32, 22},   {Encoding::kQ5_1, "Q5_1", 32, 24}, {Encoding::kQ4_K, "Q4_K", 256, 144},
    {Encoding::kQ6_K, "Q6_K", 256, 210},
};

/// By the definition of the format: sign, exponent, fraction.
double reference_half(unsigned bits) {
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>((bits >> 10) & 31);
  const double fraction = (bits & 1023) / 1024.0;
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  return exponent == 0 ? sign * std::ldexp(fraction, -14) : sign * std::ldexp(1 + fraction, exponent - 15);
}

/// The block's bytes as the definitions count them.
class Bits {
 public:
  explicit Bits(const std::byte* block) : block_(block) {}
  [[nodiscard]] int byte(int index) const { return static_cast<int>(block_[index]); }
  [[nodiscard]] int signed_byte(int index) const { return static_cast<std::int8_t>(block_[index]); }
  [[nodiscard]] double half(int index) const {
    return reference_half(static_cast<unsigned>(byte(index) | byte(index + 1) << 8));
  }
  [[nodiscard]] int bit(int first_byte, int index) const { return byte(first_byte + index / 8) >> (index % 8) & 1; }

 private:
  const std::byte* block_;
};

double reference_q4_k(const Bits& block, int i) {
  const int group = i / 32;
  int scale = 0, minimum = 0;
  if (group < 4) {
    scale = block.byte(4 + group) % 64;
    minimum = block.byte(8 + group) % 64;
  } else {
    scale = block.byte(8 + group) % 16 + block.byte(group) / 64 * 16;
    minimum = block.byte(8 + group) / 16 + block.byte(4 + group) / 64 * 16;
  }
  const int pair = block.byte(16 + i / 64 * 32 + i % 32);
  const int value = i / 32 % 2 == 0 ? pair % 16 : pair / 16;
  return block.half(0) * scale * value - block.half(2) * minimum;
}

double reference_q6_k(const Bits& block, int i) {
  const int half = i / 128, quarter = i / 32 % 4, column = i % 32;
  const int low_byte = block.byte(64 * half + 32 * (quarter % 2) + column);
  const int low = quarter < 2 ? low_byte % 16 : low_byte / 16;
  const int high = block.byte(128 + 32 * half + column) >> (2 * quarter) & 3;
  return block.half(208) * block.signed_byte(192 + i / 16) * (low + 16 * high - 32);
}

/// Element i of the block. Each is one rounding away from a number that double holds exactly.
double reference(Encoding encoding, const std::byte* bytes, int i) {
  const Bits block(bytes);
  const int column = i % 16;
  const auto nibble = [&](int first) {
    return i < 16 ? block.byte(first + column) % 16 : block.byte(first + column) / 16;
  };
  switch (encoding) {
    case Encoding::kF32: {
      float value = 0;
      std::memcpy(&value, bytes, sizeof(value));
      return value;
    }
    case Encoding::kF16:
      return block.half(0);
    case Encoding::kBF16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(block.byte(0) | block.byte(1) << 8) << 16);
    case Encoding::kQ8_0:
      return block.half(0) * block.signed_byte(2 + i);
    case Encoding::kQ4_0:
      return block.half(0) * (nibble(2) - 8);
    case Encoding::kQ4_1:
      return block.half(0) * nibble(4) + block.half(2);
    case Encoding::kQ5_0:
      return block.half(0) * (nibble(6) + 16 * block.bit(2, i) - 16);
    case Encoding::kQ5_1:
      return block.half(0) * (nibble(8) + 16 * block.bit(4, i)) + block.half(2);
    case Encoding::kQ4_K:
      return reference_q4_k(block, i);
    case Encoding::kQ6_K:
      return reference_q6_k(block, i);
  }
  return std::nan("");
}

std::vector<std::byte> random_bytes(const EncodingCase& item, std::int64_t num_elements) {
  if (item.elements > 1) return test_support::random_blocks(item.encoding, num_elements, 77);
  auto bytes = test_support::random_blocks(Encoding::kF32, num_elements * item.bytes / 4, 78);
  // Keep exponents away from NaN, which compares unequal to itself.
  for (std::size_t i = static_cast<std::size_t>(item.bytes) - 1; i < bytes.size(); i += item.bytes)
    bytes[i] &= std::byte{0xBF};
  return bytes;
}

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

}  // namespace

TEST_CASE("all 65536 halves are converted exactly") {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = mini_engine::half_to_float(static_cast<std::uint16_t>(bits));
    const double expected = reference_half(bits);
    const bool same = std::isnan(expected) ? std::isnan(value) : same_bits(value, static_cast<float>(expected));
    if (!same) FAIL("half ", bits, " became ", value, " instead of ", expected);
  }
}

TEST_CASE("every encoding decodes to the bits of the reference, whole rows and parts of them") {
  constexpr std::int64_t kRows = 3, kColumns = 768;
  for (const EncodingCase& item : kEncodings) {
    CAPTURE(item.name);
    CHECK(mini_engine::block_size(item.encoding).elements == item.elements);
    CHECK(mini_engine::block_size(item.encoding).bytes == item.bytes);
    const auto bytes = random_bytes(item, kRows * kColumns);
    const TensorView tensor{item.encoding, kRows, kColumns, bytes};
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (const auto& [begin, count] :
           {std::pair<std::int64_t, std::int64_t>{0, 768}, {256, 256}, {512, 256}, {768, 0}}) {
        std::vector<float> out(static_cast<std::size_t>(count), std::nanf(""));
        dequantize(tensor, row, begin, out);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t index = row * kColumns + begin + i;
          const std::byte* block = bytes.data() + index / item.elements * item.bytes;
          const auto expected =
              static_cast<float>(reference(item.encoding, block, static_cast<int>(index % item.elements)));
          if (!(out[static_cast<std::size_t>(i)] == expected)) {
            FAIL("element ", index, " is ", out[static_cast<std::size_t>(i)], " instead of ", expected);
          }
        }
      }
    }
  }
}

TEST_CASE("every encoding decodes to the bits of another implementation") {
  std::ifstream file(PIKV_TEST_DATA "/golden/gguf_blocks.json");
  const auto golden = nlohmann::json::parse(file);
  for (const EncodingCase& item : kEncodings) {
    if (item.encoding == Encoding::kF32) continue;
    CAPTURE(item.name);
    const auto bytes = from_hex(golden.at(item.name).at("bytes"));
    const auto expected_bytes = from_hex(golden.at(item.name).at("floats"));
    std::vector<float> expected(expected_bytes.size() / sizeof(float));
    std::memcpy(expected.data(), expected_bytes.data(), expected_bytes.size());
    REQUIRE(expected.size() * item.bytes == bytes.size() * item.elements);
    std::vector<float> out(expected.size());
    dequantize({item.encoding, 1, static_cast<std::int64_t>(out.size()), bytes}, 0, 0, out);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!(out[i] == expected[i])) FAIL("element ", i, " is ", out[i], " instead of ", expected[i]);
    }
  }
}

TEST_CASE("requests outside the tensor or across blocks are refused") {
  const auto bytes = test_support::random_blocks(Encoding::kQ8_0, 2 * 64, 1);
  const TensorView tensor{Encoding::kQ8_0, 2, 64, bytes};
  std::vector<float> out(32);
  CHECK_NOTHROW(dequantize(tensor, 1, 32, out));
  const std::pair<std::int64_t, std::int64_t> outside[] = {{2, 0}, {-1, 0}, {0, 64}, {0, -32}, {0, 16}};
  for (const auto& place : outside) {
    CAPTURE(place.first);
    CAPTURE(place.second);
    CHECK_THROWS_AS(dequantize(tensor, place.first, place.second, out), mini_engine::Error);
  }
  std::vector<float> part(31);
  CHECK_THROWS_AS(dequantize(tensor, 0, 0, part), mini_engine::Error);
}
