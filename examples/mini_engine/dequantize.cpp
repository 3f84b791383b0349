// Decoding of stored weights. The block structs below are the formats: their fields lie in the file in this order
// without gaps. Every element is one multiplication or one multiplication and one addition in fp32, in the order that
// the formats define, so results are the same bits everywhere.
#include <cstdint>
#include <cstring>
#include <string>

#include "mini_engine/bfloat16.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/half.hpp"
#include "mini_engine/model_file.hpp"

namespace mini_engine {
namespace {

using Half = std::uint16_t;

/// 32 elements: element i is the low nibble of nibbles[i], element i + 16 its high nibble.
struct BlockQ4_0 {
  static constexpr int kElements = 32;
  Half scale;
  std::uint8_t nibbles[16];
};

struct BlockQ4_1 {
  static constexpr int kElements = 32;
  Half scale;
  Half minimum;
  std::uint8_t nibbles[16];
};

/// As Q4, with the fifth bit of element i in bit i of high_bits, little-endian.
struct BlockQ5_0 {
  static constexpr int kElements = 32;
  Half scale;
  std::uint8_t high_bits[4];
  std::uint8_t nibbles[16];
};

struct BlockQ5_1 {
  static constexpr int kElements = 32;
  Half scale;
  Half minimum;
  std::uint8_t high_bits[4];
  std::uint8_t nibbles[16];
};

struct BlockQ8_0 {
  static constexpr int kElements = 32;
  Half scale;
  std::int8_t values[32];
};

/// Eight groups of 32 with 6-bit scales and minima; two neighbouring groups share 32 bytes of nibbles.
struct BlockQ4_K {
  static constexpr int kElements = 256;
  Half scale;
  Half minimum_scale;
  std::uint8_t packed[12];
  std::uint8_t nibbles[128];
};

/// Sixteen groups of 16 with 8-bit scales.
struct BlockQ6_K {
  static constexpr int kElements = 256;
  std::uint8_t low_nibbles[128];
  std::uint8_t high_pairs[64];
  std::int8_t scales[16];
  Half scale;
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ6_K) == 210);

void decode(const BlockQ4_0& block, float* out) {
  const float scale = half_to_float(block.scale);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((block.nibbles[i] & 0xF) - 8);
    out[i + 16] = scale * static_cast<float>((block.nibbles[i] >> 4) - 8);
  }
}

void decode(const BlockQ4_1& block, float* out) {
  const float scale = half_to_float(block.scale);
  const float minimum = half_to_float(block.minimum);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(block.nibbles[i] & 0xF) + minimum;
    out[i + 16] = scale * static_cast<float>(block.nibbles[i] >> 4) + minimum;
  }
}

std::uint32_t load_bits(const std::uint8_t (&bytes)[4]) {
  std::uint32_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return bits;
}

int fifth_bit(std::uint32_t high_bits, int element) { return static_cast<int>((high_bits >> element) & 1U) << 4; }

void decode(const BlockQ5_0& block, float* out) {
  const float scale = half_to_float(block.scale);
  const std::uint32_t high_bits = load_bits(block.high_bits);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(((block.nibbles[i] & 0xF) | fifth_bit(high_bits, i)) - 16);
    out[i + 16] = scale * static_cast<float>(((block.nibbles[i] >> 4) | fifth_bit(high_bits, i + 16)) - 16);
  }
}

void decode(const BlockQ5_1& block, float* out) {
  const float scale = half_to_float(block.scale);
  const float minimum = half_to_float(block.minimum);
  const std::uint32_t high_bits = load_bits(block.high_bits);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((block.nibbles[i] & 0xF) | fifth_bit(high_bits, i)) + minimum;
    out[i + 16] = scale * static_cast<float>((block.nibbles[i] >> 4) | fifth_bit(high_bits, i + 16)) + minimum;
  }
}

void decode(const BlockQ8_0& block, float* out) {
  const float scale = half_to_float(block.scale);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(block.values[i]);
}

struct ScaleAndMinimum {
  float scale;
  float minimum;
};

/// The 6-bit numbers of group 0..7. Groups 0 to 3 have theirs in the low six bits of bytes 0..3 (scales) and 4..7
/// (minima); of groups 4 to 7, bytes 8..11 hold four bits each and the top pairs of bytes 0..7 the other two.
ScaleAndMinimum unpack(const std::uint8_t (&packed)[12], int group) {
  if (group < 4) return {static_cast<float>(packed[group] & 63), static_cast<float>(packed[group + 4] & 63)};
  const int low_bits = packed[group + 4];
  return {static_cast<float>((low_bits & 0xF) | ((packed[group - 4] >> 6) << 4)),
          static_cast<float>((low_bits >> 4) | ((packed[group] >> 6) << 4))};
}

void decode(const BlockQ4_K& block, float* out) {
  const float scale = half_to_float(block.scale);
  const float minimum_scale = half_to_float(block.minimum_scale);
  for (int pair = 0; pair < 4; ++pair) {
    const ScaleAndMinimum low = unpack(block.packed, 2 * pair);
    const ScaleAndMinimum high = unpack(block.packed, 2 * pair + 1);
    const float low_scale = scale * low.scale, low_minimum = minimum_scale * low.minimum;
    const float high_scale = scale * high.scale, high_minimum = minimum_scale * high.minimum;
    const std::uint8_t* nibbles = block.nibbles + 32 * pair;
    float* pair_out = out + 64 * pair;
    for (int i = 0; i < 32; ++i) {
      pair_out[i] = low_scale * static_cast<float>(nibbles[i] & 0xF) - low_minimum;
      pair_out[i + 32] = high_scale * static_cast<float>(nibbles[i] >> 4) - high_minimum;
    }
  }
}

void decode(const BlockQ6_K& block, float* out) {
  const float scale = half_to_float(block.scale);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* low = block.low_nibbles + 64 * half;
    const std::uint8_t* high = block.high_pairs + 32 * half;
    for (int group = 0; group < 8; ++group) {
      const int quarter = group / 2;
      const float group_scale = scale * static_cast<float>(block.scales[8 * half + group]);
      const std::uint8_t* nibbles = low + 32 * (quarter % 2) + 16 * (group % 2);
      const std::uint8_t* pairs = high + 16 * (group % 2);
      float* group_out = out + 128 * half + 16 * group;
      for (int i = 0; i < 16; ++i) {
        const int value = ((nibbles[i] >> (4 * (quarter / 2))) & 0xF) | (((pairs[i] >> (2 * quarter)) & 3) << 4);
        group_out[i] = group_scale * static_cast<float>(value - 32);
      }
    }
  }
}

template <class Block>
void decode_blocks(const std::byte* bytes, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); i += Block::kElements) {
    Block block;
    std::memcpy(&block, bytes, sizeof(Block));
    decode(block, out.data() + i);
    bytes += sizeof(Block);
  }
}

template <class Convert>
void decode_halves(const std::byte* bytes, std::span<float> out, Convert convert) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t half;
    std::memcpy(&half, bytes + 2 * i, sizeof(half));
    out[i] = convert(half);
  }
}

}  // namespace

BlockSize block_size(Encoding encoding) {
  switch (encoding) {
    case Encoding::kF32:
      return {1, 4};
    case Encoding::kF16:
    case Encoding::kBF16:
      return {1, 2};
    case Encoding::kQ8_0:
      return {BlockQ8_0::kElements, sizeof(BlockQ8_0)};
    case Encoding::kQ4_0:
      return {BlockQ4_0::kElements, sizeof(BlockQ4_0)};
    case Encoding::kQ4_1:
      return {BlockQ4_1::kElements, sizeof(BlockQ4_1)};
    case Encoding::kQ5_0:
      return {BlockQ5_0::kElements, sizeof(BlockQ5_0)};
    case Encoding::kQ5_1:
      return {BlockQ5_1::kElements, sizeof(BlockQ5_1)};
    case Encoding::kQ4_K:
      return {BlockQ4_K::kElements, sizeof(BlockQ4_K)};
    case Encoding::kQ6_K:
      return {BlockQ6_K::kElements, sizeof(BlockQ6_K)};
  }
  throw Error("encoding number " + std::to_string(static_cast<int>(encoding)) + " does not exist");
}

void dequantize(const TensorView& tensor, std::int64_t row, std::int64_t begin, std::span<float> out) {
  const BlockSize block = block_size(tensor.encoding);
  const auto count = static_cast<std::int64_t>(out.size());
  if (row < 0 || row >= tensor.rows || begin < 0 || begin > tensor.columns || count > tensor.columns - begin) {
    throw Error("dequantize: elements " + std::to_string(begin) + " to " + std::to_string(begin + count) + " of row " +
                std::to_string(row) + " are outside a tensor of " + std::to_string(tensor.rows) + " rows of " +
                std::to_string(tensor.columns));
  }
  if (begin % block.elements != 0 || count % block.elements != 0) {
    throw Error("dequantize: elements " + std::to_string(begin) + " to " + std::to_string(begin + count) +
                " are not whole blocks of " + std::to_string(block.elements));
  }
  const std::int64_t first_block = row * (tensor.columns / block.elements) + begin / block.elements;
  const std::byte* bytes = tensor.bytes.data() + first_block * block.bytes;
  switch (tensor.encoding) {
    case Encoding::kF32:
      if (!out.empty()) std::memcpy(out.data(), bytes, out.size_bytes());
      break;
    case Encoding::kF16:
      decode_halves(bytes, out, half_to_float);
      break;
    case Encoding::kBF16:
      decode_halves(bytes, out, [](BFloat16 value) { return to_float(value); });
      break;
    case Encoding::kQ8_0:
      decode_blocks<BlockQ8_0>(bytes, out);
      break;
    case Encoding::kQ4_0:
      decode_blocks<BlockQ4_0>(bytes, out);
      break;
    case Encoding::kQ4_1:
      decode_blocks<BlockQ4_1>(bytes, out);
      break;
    case Encoding::kQ5_0:
      decode_blocks<BlockQ5_0>(bytes, out);
      break;
    case Encoding::kQ5_1:
      decode_blocks<BlockQ5_1>(bytes, out);
      break;
    case Encoding::kQ4_K:
      decode_blocks<BlockQ4_K>(bytes, out);
      break;
    case Encoding::kQ6_K:
      decode_blocks<BlockQ6_K>(bytes, out);
      break;
  }
}

}  // namespace mini_engine
