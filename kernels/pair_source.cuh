// The two vectors of a thread, out of each kind of source.
//
// load() fetches their bytes (row: the token's head, channel 0) and the scales they need, decode() makes them numbers;
// between the two a thread starts its other loads. Arithmetic is that of pikv/detail/quantize.hpp, with the hardware's
// conversions where they give the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "memory_access.cuh"
#include "params.hpp"
#include "vector_pair.cuh"

namespace pikv::kernels {

/// Where a pair lies in a plane of a source.
struct PairPlace {
  const Plane& plane;
  const Decoding& decoding;
  std::int32_t layer;
  std::uint32_t num_heads;
  std::uint32_t head_dim;
  std::uint32_t slot;
  std::uint32_t head;
  VectorPair pair;

  /// Where the layer's scales begin.
  [[nodiscard]] __device__ const std::byte* scales() const { return decoding.scales + layer * decoding.layer_bytes; }
  /// The head, counted over those of all slots.
  [[nodiscard]] __device__ std::uint64_t slot_head() const { return std::uint64_t{slot} * num_heads + head; }
};

/// Eight elements of 8, 16 and 32 bits, as they lie in memory.
struct Raw8 {
  uint2 words;
};
struct Raw16 {
  uint4 words;
};
struct Raw32 {
  uint4 low, high;
};
template <class Raw>
struct RawPair {
  Raw first, second;
};

__device__ __forceinline__ void decode_bfloat16(const uint4& words, float (&values)[kVectorChannels]) {
  const std::uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(pairs[i] << 16);
    values[2 * i + 1] = __uint_as_float(pairs[i] & 0xFFFF0000U);
  }
}

[[nodiscard]] __device__ __forceinline__ float2 halves_to_floats(std::uint32_t pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

__device__ __forceinline__ void decode_halves(const uint4& words, float (&values)[kVectorChannels]) {
  const std::uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 both = halves_to_floats(pairs[i]);
    values[2 * i] = both.x;
    values[2 * i + 1] = both.y;
  }
}

template <SourceKind kKind, bool kIsKey>
struct PairSource;

template <bool kIsKey>
struct PairSource<SourceKind::kFloat32, kIsKey> {
  using Raw = RawPair<Raw32>;
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    const std::byte* const first = row + at.pair.first_channel * 4;
    const std::byte* const second = row + at.pair.second_channel * 4;
    return {{load_once<uint4>(first), load_once<uint4>(first + 16)},
            {load_once<uint4>(second), load_once<uint4>(second + 16)}};
  }
  static __device__ void decode(const Raw& raw, const PairPlace& /*at*/, PairValues& values) {
    decode_one(raw.first, values.first);
    decode_one(raw.second, values.second);
  }

 private:
  static __device__ void decode_one(const Raw32& raw, float (&values)[kVectorChannels]) {
    const std::uint32_t words[8] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                                    raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = __uint_as_float(words[i]);
  }
};

/// Both types of 16 bits.
template <void (*kDecode)(const uint4&, float (&)[kVectorChannels])>
struct PairSource16 {
  using Raw = RawPair<Raw16>;
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    return {{load_once<uint4>(row + at.pair.first_channel * 2)}, {load_once<uint4>(row + at.pair.second_channel * 2)}};
  }
  static __device__ void decode(const Raw& raw, PairValues& values) {
    kDecode(raw.first.words, values.first);
    kDecode(raw.second.words, values.second);
  }
  static __device__ void decode(const Raw& raw, const PairPlace& /*at*/, PairValues& values) { decode(raw, values); }
};
template <bool kIsKey>
struct PairSource<SourceKind::kBFloat16, kIsKey> : PairSource16<decode_bfloat16> {};
template <bool kIsKey>
struct PairSource<SourceKind::kFloat16, kIsKey> : PairSource16<decode_halves> {};

template <bool kIsKey>
struct PairSource<SourceKind::kFloat8E4M3, kIsKey> {
  struct Raw {
    uint2 first, second;
    float scale;
  };
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    const bool has_scale = at.decoding.scales != nullptr;
    return {load_once<uint2>(row + at.pair.first_channel), load_once<uint2>(row + at.pair.second_channel),
            has_scale ? load_again<float>(at.scales() + at.head * at.decoding.head_bytes) : 1.0F};
  }
  static __device__ void decode(const Raw& raw, const PairPlace& /*at*/, PairValues& values) {
    decode_one(raw.first, raw.scale, values.first);
    decode_one(raw.second, raw.scale, values.second);
  }

 private:
  static __device__ void decode_one(const uint2& codes, float scale, float (&values)[kVectorChannels]) {
    const std::uint32_t words[2] = {codes.x, codes.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> (16 * (i % 2)));
      const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
      const float2 both = __half22float2(__half2(halves));
      values[2 * i] = both.x * scale;
      values[2 * i + 1] = both.y * scale;
    }
  }
};

/// Codes of int8 as numbers, before their scales.
__device__ __forceinline__ void decode_bytes(const uint2& codes, float (&values)[kVectorChannels]) {
  // A byte below the leading bit of 2^23 is that integer in fp32; flipping its sign bit adds 128.
  constexpr float kOffset = 8388608.0F + 128.0F;
  const std::uint32_t unsigned_words[2] = {codes.x ^ 0x80808080U, codes.y ^ 0x80808080U};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const auto select = 0x7440U + static_cast<std::uint32_t>(i % 4);
    values[i] = __uint_as_float(__byte_perm(unsigned_words[i / 4], 0x4B000000U, select)) - kOffset;
  }
}

/// Keys: a scale for each channel.
template <>
struct PairSource<SourceKind::kInt8, true> {
  struct Raw {
    uint2 first, second;
    uint4 first_scales, second_scales;
  };
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    const std::byte* const scales = at.scales() + at.head * at.head_dim * 2;
    return {load_once<uint2>(row + at.pair.first_channel), load_once<uint2>(row + at.pair.second_channel),
            load_again<uint4>(scales + at.pair.first_channel * 2),
            load_again<uint4>(scales + at.pair.second_channel * 2)};
  }
  static __device__ void decode(const Raw& raw, const PairPlace& /*at*/, PairValues& values) {
    decode_one(raw.first, raw.first_scales, values.first);
    decode_one(raw.second, raw.second_scales, values.second);
  }

 private:
  static __device__ void decode_one(const uint2& codes, const uint4& packed_scales, float (&values)[kVectorChannels]) {
    float scales[kVectorChannels];
    decode_halves(packed_scales, scales);
    decode_bytes(codes, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] *= scales[i];
  }
};

/// Values: a scale for each token and head.
template <>
struct PairSource<SourceKind::kInt8, false> {
  struct Raw {
    uint2 first, second;
    std::uint16_t scale;
  };
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    return {load_once<uint2>(row + at.pair.first_channel), load_once<uint2>(row + at.pair.second_channel),
            load_again<std::uint16_t>(at.scales() + at.slot_head() * 2)};
  }
  static __device__ void decode(const Raw& raw, const PairPlace& /*at*/, PairValues& values) {
    const float scale = __half2float(__half(__half_raw{raw.scale}));
    decode_bytes(raw.first, values.first);
    decode_bytes(raw.second, values.second);
#pragma unroll
    for (int i = 0; i < 8; ++i) values.first[i] *= scale;
#pragma unroll
    for (int i = 0; i < 8; ++i) values.second[i] *= scale;
  }
};

/// Code i of a word of int4 codes, as a number.
[[nodiscard]] __device__ __forceinline__ float decode_nibble(std::uint32_t codes, int i) {
  // Four bits below the leading bit of 2^23 are that integer in fp32.
  return __uint_as_float(((codes >> (4 * i)) & 0xFU) | 0x4B000000U) - 8388608.0F;
}

/// Of the first tokens of an int4 chunk, which are bf16. So few that nothing is gained by loading them early.
__device__ __forceinline__ void decode_sinks(const PairPlace& at, PairValues& values) {
  const std::byte* const sinks =
      at.decoding.sinks + at.layer * at.decoding.sink_layer_bytes + at.slot_head() * at.head_dim * 2;
  decode_bfloat16(load_once<uint4>(sinks + at.pair.first_channel * 2), values.first);
  decode_bfloat16(load_once<uint4>(sinks + at.pair.second_channel * 2), values.second);
}

/// Keys: scale and minimum for each channel and group of tokens.
template <>
struct PairSource<SourceKind::kInt4, true> {
  struct Raw {
    std::uint32_t first, second;
    Raw32 first_groups, second_groups;
  };
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    constexpr auto kGroup = static_cast<std::uint32_t>(kInt4GroupTokens);
    const std::byte* const groups =
        at.scales() + (std::uint64_t{at.slot / kGroup} * at.num_heads + at.head) * at.head_dim * 4;
    const std::byte* const first = groups + at.pair.first_channel * 4;
    const std::byte* const second = groups + at.pair.second_channel * 4;
    return {load_once<std::uint32_t>(row + at.pair.first_channel / 2),
            load_once<std::uint32_t>(row + at.pair.second_channel / 2),
            {load_again<uint4>(first), load_again<uint4>(first + 16)},
            {load_again<uint4>(second), load_again<uint4>(second + 16)}};
  }
  static __device__ void decode(const Raw& raw, const PairPlace& at, PairValues& values) {
    if (at.slot < kInt4SinkTokens) return decode_sinks(at, values);
    decode_one(raw.first, raw.first_groups, values.first);
    decode_one(raw.second, raw.second_groups, values.second);
  }

 private:
  static __device__ void decode_one(std::uint32_t codes, const Raw32& raw, float (&values)[kVectorChannels]) {
    const std::uint32_t groups[8] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                                     raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 scale_and_minimum = halves_to_floats(groups[i]);
      values[i] = __fmaf_rn(decode_nibble(codes, i), scale_and_minimum.x, scale_and_minimum.y);
    }
  }
};

/// Values: scale and minimum for each token and group of channels.
template <>
struct PairSource<SourceKind::kInt4, false> {
  struct Raw {
    std::uint32_t first, second;
    std::uint32_t first_group, second_group;
  };
  [[nodiscard]] static __device__ Raw load(const PairPlace& at, const std::byte* row) {
    constexpr auto kGroup = static_cast<std::uint32_t>(kInt4GroupChannels);
    const std::byte* const groups = at.scales() + at.slot_head() * ((at.head_dim + kGroup - 1) / kGroup) * 4;
    return {load_once<std::uint32_t>(row + at.pair.first_channel / 2),
            load_once<std::uint32_t>(row + at.pair.second_channel / 2),
            load_again<std::uint32_t>(groups + at.pair.first_channel / kGroup * 4),
            load_again<std::uint32_t>(groups + at.pair.second_channel / kGroup * 4)};
  }
  static __device__ void decode(const Raw& raw, const PairPlace& at, PairValues& values) {
    if (at.slot < kInt4SinkTokens) return decode_sinks(at, values);
    decode_one(raw.first, raw.first_group, values.first);
    decode_one(raw.second, raw.second_group, values.second);
  }

 private:
  static __device__ void decode_one(std::uint32_t codes, std::uint32_t group, float (&values)[kVectorChannels]) {
    const float2 scale_and_minimum = halves_to_floats(group);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i] = __fmaf_rn(decode_nibble(codes, i), scale_and_minimum.x, scale_and_minimum.y);
    }
  }
};

}  // namespace pikv::kernels
