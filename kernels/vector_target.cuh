// Eight adjacent channels into each type of target: rounded once, to nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "pair_source.cuh"

namespace pikv::kernels {

/// scale: of fp8; other types have none.
template <DType kType>
struct VectorTarget;

template <>
struct VectorTarget<DType::kFloat32> {
  static constexpr std::uint32_t kBytes = 4;
  [[nodiscard]] static __device__ Raw32 encode(const float (&values)[kVectorChannels], float /*scale*/) {
    std::uint32_t words[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = __float_as_uint(values[i]);
    return {make_uint4(words[0], words[1], words[2], words[3]), make_uint4(words[4], words[5], words[6], words[7])};
  }
};

template <>
struct VectorTarget<DType::kFloat16> {
  static constexpr std::uint32_t kBytes = 2;
  [[nodiscard]] static __device__ Raw16 encode(const float (&values)[kVectorChannels], float /*scale*/) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
      words[i] = reinterpret_cast<const std::uint32_t&>(pair);
    }
    return {make_uint4(words[0], words[1], words[2], words[3])};
  }
};

template <>
struct VectorTarget<DType::kBFloat16> {
  static constexpr std::uint32_t kBytes = 2;
  [[nodiscard]] static __device__ Raw16 encode(const float (&values)[kVectorChannels], float /*scale*/) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      words[i] = reinterpret_cast<const std::uint32_t&>(pair);
    }
    return {make_uint4(words[0], words[1], words[2], words[3])};
  }
};

template <>
struct VectorTarget<DType::kFloat8E4M3> {
  static constexpr std::uint32_t kBytes = 1;
  [[nodiscard]] static __device__ Raw8 encode(const float (&values)[kVectorChannels], float scale) {
    std::uint32_t words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // An IEEE division, as engines do it; by 1 in many of them, which is worth not doing.
      const float2 pair = scale == 1.0F ? make_float2(values[2 * i], values[2 * i + 1])
                                        : make_float2(values[2 * i] / scale, values[2 * i + 1] / scale);
      const std::uint32_t codes = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
      words[i / 2] |= codes << (16 * (i % 2));
    }
    return {make_uint2(words[0], words[1])};
  }
};

__device__ __forceinline__ void store(std::byte* p, const Raw8& raw, bool streams) {
  store_vector(p, raw.words, streams);
}
__device__ __forceinline__ void store(std::byte* p, const Raw16& raw, bool streams) {
  store_vector(p, raw.words, streams);
}
__device__ __forceinline__ void store(std::byte* p, const Raw32& raw, bool streams) {
  store_vector(p, raw.low, streams);
  store_vector(p + sizeof(uint4), raw.high, streams);
}

/// Copies instead of decoding and rounding, where that is the same: a NaN then keeps its payload too. Scales of fp8 may
/// differ.
template <SourceKind kKind, DType kType>
inline constexpr bool kIsCopy = static_cast<int>(kKind) == static_cast<int>(kType) && kType != DType::kFloat8E4M3;

}  // namespace pikv::kernels
