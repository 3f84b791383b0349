// The 16 channels of a head that one thread owns: which they are, and how they turn.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pikv/detail/rotate.hpp"
#include "vector_source.cuh"

namespace pikv::kernels {

/// The two vectors of a thread.
struct VectorPair {
  std::int32_t first_channel;
  std::int32_t second_channel;
  bool has_second;
  bool turns;
};

[[nodiscard]] __device__ __forceinline__ VectorPair vectors_of_unit(std::int32_t unit, std::int32_t head_dim,
                                                                    std::int32_t half_dim) {
  const std::int32_t turning = half_dim / kVectorChannels;
  if (unit < turning) return {unit * kVectorChannels, half_dim + unit * kVectorChannels, true, true};
  const std::int32_t resting = (head_dim - 2 * half_dim) / kVectorChannels;
  const std::int32_t stride = (resting + 1) / 2;
  const std::int32_t first = unit - turning;
  return {2 * half_dim + first * kVectorChannels, 2 * half_dim + (first + stride) * kVectorChannels,
          first + stride < resting, false};
}

/// Both vectors of a thread turned. cos and sin: of the position, [half_dim].
template <Pairing kPairing, class Memory>
__device__ __forceinline__ void turn(float (&a)[kVectorChannels], float (&b)[kVectorChannels], const VectorPair& pair,
                                     const std::byte* cos, const std::byte* sin, bool turns_back,
                                     float inverse_square) {
  // Which entries of the table the eight pairs of the two vectors take.
  const std::int32_t low = kPairing == Pairing::kHalfSplit ? pair.first_channel : pair.first_channel / 2;
  const std::int32_t high = kPairing == Pairing::kHalfSplit ? low + 4 : pair.second_channel / 2;
  const float4 cosines[2] = {Memory::template load_again<float4>(cos + 4 * low),
                             Memory::template load_again<float4>(cos + 4 * high)};
  const float4 sines[2] = {Memory::template load_again<float4>(sin + 4 * low),
                           Memory::template load_again<float4>(sin + 4 * high)};
#pragma unroll
  for (int i = 0; i < kVectorChannels; ++i) {
    const float c = i % 4 == 0   ? cosines[i / 4].x
                    : i % 4 == 1 ? cosines[i / 4].y
                    : i % 4 == 2 ? cosines[i / 4].z
                                 : cosines[i / 4].w;
    const float s = i % 4 == 0   ? sines[i / 4].x
                    : i % 4 == 1 ? sines[i / 4].y
                    : i % 4 == 2 ? sines[i / 4].z
                                 : sines[i / 4].w;
    float& first = kPairing == Pairing::kHalfSplit ? a[i] : i < 4 ? a[2 * (i % 4)] : b[2 * (i % 4)];
    float& second = kPairing == Pairing::kHalfSplit ? b[i] : i < 4 ? a[2 * (i % 4) + 1] : b[2 * (i % 4) + 1];
    const detail::RotatedPair turned =
        turns_back ? detail::unrotate(first, second, c, s, inverse_square) : detail::rotate(first, second, c, s);
    first = turned.first;
    second = turned.second;
  }
}

__device__ __forceinline__ void add_bias(float (&values)[kVectorChannels], const float* bias) {
#pragma unroll
  for (int i = 0; i < kVectorChannels; ++i) values[i] += __ldg(bias + i);
}

/// Copies instead of decoding and rounding, where that is the same: a NaN then keeps its payload too.
template <SourceKind kKind, DType kType>
inline constexpr bool kIsCopy = static_cast<int>(kKind) == static_cast<int>(kType) && kType != DType::kFloat8E4M3;

}  // namespace pikv::kernels
