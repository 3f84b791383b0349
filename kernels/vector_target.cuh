// Eight adjacent channels into each type of target: rounded once, to nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "vector_source.cuh"

namespace pikv::kernels {

/// Types of 16 bits and more also copy() what was read from their own kind; fp8 does not, since scales may differ.
template <DType kType>
struct VectorTarget;

template <>
struct VectorTarget<DType::kFloat32> {
  static constexpr int kBytes = 4;
  static __device__ void store(std::byte* p, const float (&values)[kVectorChannels], float /*scale*/, bool streams) {
    std::uint32_t words[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = __float_as_uint(values[i]);
    store_vector(p, make_uint4(words[0], words[1], words[2], words[3]), streams);
    store_vector(p + 16, make_uint4(words[4], words[5], words[6], words[7]), streams);
  }
  static __device__ void copy(std::byte* p, const Raw32& raw, bool streams) {
    store_vector(p, raw.low, streams);
    store_vector(p + 16, raw.high, streams);
  }
};

template <>
struct VectorTarget<DType::kFloat16> {
  static constexpr int kBytes = 2;
  static __device__ void store(std::byte* p, const float (&values)[kVectorChannels], float /*scale*/, bool streams) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
      words[i] = reinterpret_cast<const std::uint32_t&>(pair);
    }
    store_vector(p, make_uint4(words[0], words[1], words[2], words[3]), streams);
  }
  static __device__ void copy(std::byte* p, const Raw16& raw, bool streams) { store_vector(p, raw.words, streams); }
};

template <>
struct VectorTarget<DType::kBFloat16> {
  static constexpr int kBytes = 2;
  static __device__ void store(std::byte* p, const float (&values)[kVectorChannels], float /*scale*/, bool streams) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      words[i] = reinterpret_cast<const std::uint32_t&>(pair);
    }
    store_vector(p, make_uint4(words[0], words[1], words[2], words[3]), streams);
  }
  static __device__ void copy(std::byte* p, const Raw16& raw, bool streams) { store_vector(p, raw.words, streams); }
};

template <>
struct VectorTarget<DType::kFloat8E4M3> {
  static constexpr int kBytes = 1;
  static __device__ void store(std::byte* p, const float (&values)[kVectorChannels], float scale, bool streams) {
    std::uint32_t words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // An IEEE division, as engines do it; by 1 in many of them, which is worth not doing.
      const float2 pair = scale == 1.0F ? make_float2(values[2 * i], values[2 * i + 1])
                                        : make_float2(values[2 * i] / scale, values[2 * i + 1] / scale);
      const std::uint32_t codes = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
      words[i / 2] |= codes << (16 * (i % 2));
    }
    store_vector(p, make_uint2(words[0], words[1]), streams);
  }
};

}  // namespace pikv::kernels
