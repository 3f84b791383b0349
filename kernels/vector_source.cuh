// Eight adjacent channels of one head and token, out of each kind of source.
//
// A VectorSource stands for one vector of channels of one head in one layer, of keys or of values. load() fetches the
// bytes of a token, decode() makes them numbers; between the two a thread can start other loads. Arithmetic is that of
// pikv/detail/quantize.hpp, with the hardware's conversions where they give the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "memory_access.cuh"
#include "params.hpp"

namespace pikv::kernels {

/// What a vector belongs to.
struct VectorPlace {
  const Decoding& decoding;
  std::int32_t layer;  ///< of the source
  std::int32_t num_heads;
  std::int32_t head_dim;
  std::int32_t head;
  std::int32_t channel;  ///< first of the eight
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

/// Eight elements of 16 and of 32 bits, as they lie in memory.
struct Raw16 {
  uint4 words;
};
struct Raw32 {
  uint4 low, high;
};

/// Memory: GlobalMemory, or SharedMemory where a tile's codes and scales have been staged.
template <SourceKind kKind, bool kIsKey, class Memory>
struct VectorSource;

template <bool kIsKey, class Memory>
struct VectorSource<SourceKind::kFloat32, kIsKey, Memory> {
  using Raw = Raw32;
  explicit __device__ VectorSource(const VectorPlace& place) : offset_(place.channel * 4) {}
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t /*slot*/) const {
    return {Memory::template load<uint4>(head_row + offset_), Memory::template load<uint4>(head_row + offset_ + 16)};
  }
  __device__ void decode(const Raw& raw, std::int32_t /*slot*/, float (&values)[kVectorChannels]) {
    const std::uint32_t words[8] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                                    raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = __uint_as_float(words[i]);
  }

 private:
  std::int32_t offset_;
};

template <bool kIsKey, class Memory>
struct VectorSource<SourceKind::kBFloat16, kIsKey, Memory> {
  using Raw = Raw16;
  explicit __device__ VectorSource(const VectorPlace& place) : offset_(place.channel * 2) {}
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t /*slot*/) const {
    return {Memory::template load<uint4>(head_row + offset_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t /*slot*/, float (&values)[kVectorChannels]) {
    decode_bfloat16(raw.words, values);
  }

 private:
  std::int32_t offset_;
};

template <bool kIsKey, class Memory>
struct VectorSource<SourceKind::kFloat16, kIsKey, Memory> {
  using Raw = Raw16;
  explicit __device__ VectorSource(const VectorPlace& place) : offset_(place.channel * 2) {}
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t /*slot*/) const {
    return {Memory::template load<uint4>(head_row + offset_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t /*slot*/, float (&values)[kVectorChannels]) {
    decode_halves(raw.words, values);
  }

 private:
  std::int32_t offset_;
};

template <bool kIsKey, class Memory>
struct VectorSource<SourceKind::kFloat8E4M3, kIsKey, Memory> {
  struct Raw {
    uint2 words;
  };
  explicit __device__ VectorSource(const VectorPlace& place) : offset_(place.channel), scale_(1.0F) {
    if (place.decoding.scales != nullptr) {
      scale_ = load_cached<float>(place.decoding.scales + place.layer * place.decoding.layer_bytes +
                                  place.head * place.decoding.head_bytes);
    }
  }
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t /*slot*/) const {
    return {Memory::template load<uint2>(head_row + offset_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t /*slot*/, float (&values)[kVectorChannels]) {
    const std::uint32_t words[2] = {raw.words.x, raw.words.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> (16 * (i % 2)));
      const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
      const float2 both = __half22float2(__half2(halves));
      values[2 * i] = both.x * scale_;
      values[2 * i + 1] = both.y * scale_;
    }
  }

 private:
  std::int32_t offset_;
  float scale_;
};

/// Codes of int8 as numbers, before their scales.
__device__ __forceinline__ void decode_bytes(const uint2& words, float (&values)[kVectorChannels]) {
  // A byte below the leading bit of 2^23 is that integer in fp32; flipping its sign bit adds 128.
  constexpr float kOffset = 8388608.0F + 128.0F;
  const std::uint32_t unsigned_words[2] = {words.x ^ 0x80808080U, words.y ^ 0x80808080U};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const auto select = 0x7440U + static_cast<std::uint32_t>(i % 4);
    values[i] = __uint_as_float(__byte_perm(unsigned_words[i / 4], 0x4B000000U, select)) - kOffset;
  }
}

/// Keys: the scales of the vector's channels stay in registers.
template <class Memory>
struct VectorSource<SourceKind::kInt8, true, Memory> {
  struct Raw {
    uint2 words;
  };
  explicit __device__ VectorSource(const VectorPlace& place) : offset_(place.channel) {
    const uint4 pairs =
        Memory::template load_again<uint4>(place.decoding.scales + place.layer * place.decoding.layer_bytes +
                                           (place.head * place.head_dim + place.channel) * 2);
    decode_halves(pairs, scales_);
  }
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t /*slot*/) const {
    return {Memory::template load<uint2>(head_row + offset_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t /*slot*/, float (&values)[kVectorChannels]) {
    decode_bytes(raw.words, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] *= scales_[i];
  }

 private:
  std::int32_t offset_;
  float scales_[kVectorChannels];
};

/// Values: a scale comes with every token.
template <class Memory>
struct VectorSource<SourceKind::kInt8, false, Memory> {
  struct Raw {
    uint2 words;
    std::uint16_t scale;
  };
  explicit __device__ VectorSource(const VectorPlace& place)
      : offset_(place.channel),
        row_bytes_(place.num_heads * 2),
        scales_(place.decoding.scales + place.layer * place.decoding.layer_bytes + place.head * 2) {}
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t slot) const {
    return {Memory::template load<uint2>(head_row + offset_),
            Memory::template load_again<std::uint16_t>(scales_ + std::int64_t{slot} * row_bytes_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t /*slot*/, float (&values)[kVectorChannels]) {
    const float scale = __half2float(__half(__half_raw{raw.scale}));
    decode_bytes(raw.words, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] *= scale;
  }

 private:
  std::int32_t offset_;
  std::int32_t row_bytes_;
  const std::byte* scales_;
};

/// Code i of a word of int4 codes, as a number.
[[nodiscard]] __device__ __forceinline__ float decode_nibble(std::uint32_t codes, int i) {
  // Four bits below the leading bit of 2^23 are that integer in fp32.
  return __uint_as_float(((codes >> (4 * i)) & 0xFU) | 0x4B000000U) - 8388608.0F;
}

/// The first tokens of an int4 chunk, which are bf16. So few that nothing is gained by loading them early.
class SinkVectors {
 public:
  explicit __device__ SinkVectors(const VectorPlace& place)
      : row_bytes_(place.num_heads * place.head_dim * 2),
        sinks_(place.decoding.sinks + place.layer * place.decoding.sink_layer_bytes +
               (place.head * place.head_dim + place.channel) * 2) {}
  __device__ void decode(std::int32_t slot, float (&values)[kVectorChannels]) const {
    decode_bfloat16(load_16_bytes(sinks_ + slot * row_bytes_), values);
  }

 private:
  std::int32_t row_bytes_;
  const std::byte* sinks_;
};

/// Keys: tokens of a tile mostly share a group, so that scale and minimum of each channel stay in registers.
template <class Memory>
struct VectorSource<SourceKind::kInt4, true, Memory> {
  struct Raw {
    std::uint32_t codes;
  };
  explicit __device__ VectorSource(const VectorPlace& place)
      : offset_(place.channel / 2),
        group_bytes_(place.num_heads * place.head_dim * 4),
        groups_(place.decoding.scales + place.layer * place.decoding.layer_bytes +
                (place.head * place.head_dim + place.channel) * 4),
        sinks_(place) {}
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t /*slot*/) const {
    return {Memory::template load<std::uint32_t>(head_row + offset_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t slot, float (&values)[kVectorChannels]) {
    if (slot < kInt4SinkTokens) return sinks_.decode(slot, values);
    const auto group = slot / static_cast<std::int32_t>(kInt4GroupTokens);
    if (group != group_) fetch(group);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = __fmaf_rn(decode_nibble(raw.codes, i), scales_[i], minima_[i]);
  }

 private:
  __device__ void fetch(std::int32_t group) {
    group_ = group;
    const std::byte* const at = groups_ + group * group_bytes_;
    const uint4 low = Memory::template load_again<uint4>(at);
    const uint4 high = Memory::template load_again<uint4>(at + 16);
    const std::uint32_t pairs[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 both = halves_to_floats(pairs[i]);
      scales_[i] = both.x;
      minima_[i] = both.y;
    }
  }

  std::int32_t offset_;
  std::int64_t group_bytes_;
  const std::byte* groups_;
  SinkVectors sinks_;
  std::int32_t group_ = -1;
  float scales_[kVectorChannels];
  float minima_[kVectorChannels];
};

/// Values: a group comes with every token.
template <class Memory>
struct VectorSource<SourceKind::kInt4, false, Memory> {
  struct Raw {
    std::uint32_t codes;
    std::uint32_t group;
  };
  explicit __device__ VectorSource(const VectorPlace& place)
      : offset_(place.channel / 2),
        groups_(place.decoding.scales + place.layer * place.decoding.layer_bytes),
        sinks_(place) {
    constexpr auto kGroup = static_cast<std::int32_t>(kInt4GroupChannels);
    const std::int32_t head_groups = (place.head_dim + kGroup - 1) / kGroup;
    groups_ += (place.head * head_groups + place.channel / kGroup) * 4;
    row_bytes_ = place.num_heads * head_groups * 4;
  }
  [[nodiscard]] __device__ Raw load(const std::byte* head_row, std::int32_t slot) const {
    return {Memory::template load<std::uint32_t>(head_row + offset_),
            Memory::template load_again<std::uint32_t>(groups_ + std::int64_t{slot} * row_bytes_)};
  }
  __device__ void decode(const Raw& raw, std::int32_t slot, float (&values)[kVectorChannels]) {
    if (slot < kInt4SinkTokens) return sinks_.decode(slot, values);
    const float2 scale_and_minimum = halves_to_floats(raw.group);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i] = __fmaf_rn(decode_nibble(raw.codes, i), scale_and_minimum.x, scale_and_minimum.y);
    }
  }

 private:
  std::int32_t offset_;
  std::int32_t row_bytes_ = 0;
  const std::byte* groups_;
  SinkVectors sinks_;
};

}  // namespace pikv::kernels
