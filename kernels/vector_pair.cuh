// The 16 channels of a head that one thread owns: which they are, and how they turn.
#pragma once

#include <cstdint>

#include "memory_access.cuh"
#include "params.hpp"
#include "pikv/detail/rotate.hpp"
#include "pikv/rope.hpp"

namespace pikv::kernels {

/// The two vectors of a thread; the same twice where a head has an odd number of them to share out.
struct VectorPair {
  std::uint32_t first_channel;
  std::uint32_t second_channel;
  bool turns;
};

[[nodiscard]] __device__ __forceinline__ VectorPair vectors_of_unit(std::uint32_t unit, std::uint32_t head_dim,
                                                                    std::uint32_t half_dim) {
  const std::uint32_t turning = half_dim / kVectorChannels;
  if (unit < turning) return {unit * kVectorChannels, half_dim + unit * kVectorChannels, true};
  const std::uint32_t resting = (head_dim - 2 * half_dim) / kVectorChannels;
  const std::uint32_t first = unit - turning;
  const std::uint32_t partner = first + (resting + 1) / 2;
  const std::uint32_t second = partner < resting ? partner : first;
  return {2 * half_dim + first * kVectorChannels, 2 * half_dim + second * kVectorChannels, false};
}

/// Numbers of both vectors.
struct PairValues {
  float first[kVectorChannels];
  float second[kVectorChannels];
};

/// Cosines and sines of the eight pairs of channels of a thread.
struct Angles {
  float4 cosines[2];
  float4 sines[2];
};

/// Requires: pair.turns.
template <Pairing kPairing>
[[nodiscard]] __device__ __forceinline__ Angles load_angles(const RopeTableView& rope, Position position,
                                                            const VectorPair& pair) {
  const std::uint32_t low = kPairing == Pairing::kHalfSplit ? pair.first_channel : pair.first_channel / 2;
  const std::uint32_t high = kPairing == Pairing::kHalfSplit ? low + 4 : pair.second_channel / 2;
  const float* const cos = rope.cos(position);
  const float* const sin = cos + rope.half_dim;
  return {{load_again<float4>(cos + low), load_again<float4>(cos + high)},
          {load_again<float4>(sin + low), load_again<float4>(sin + high)}};
}

[[nodiscard]] __device__ __forceinline__ float component(const float4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

/// Replaces each pair of channels by turn_pair(first, second, cos, sin).
template <Pairing kPairing, class TurnPair>
__device__ __forceinline__ void for_each_pair(PairValues& values, const Angles& angles, const TurnPair& turn_pair) {
  float(&a)[kVectorChannels] = values.first;
  float(&b)[kVectorChannels] = values.second;
#pragma unroll
  for (int i = 0; i < kVectorChannels; ++i) {
    float& first = kPairing == Pairing::kHalfSplit ? a[i] : i < 4 ? a[2 * (i % 4)] : b[2 * (i % 4)];
    float& second = kPairing == Pairing::kHalfSplit ? b[i] : i < 4 ? a[2 * (i % 4) + 1] : b[2 * (i % 4) + 1];
    const detail::RotatedPair turned =
        turn_pair(first, second, component(angles.cosines[i / 4], i % 4), component(angles.sines[i / 4], i % 4));
    first = turned.first;
    second = turned.second;
  }
}

template <Pairing kPairing>
__device__ __forceinline__ void turn(PairValues& values, const Angles& angles, bool turns_back, float inverse_square) {
  if (turns_back) {
    for_each_pair<kPairing>(values, angles, [&](float first, float second, float cos, float sin) {
      return detail::unrotate(first, second, cos, sin, inverse_square);
    });
  } else {
    for_each_pair<kPairing>(values, angles, detail::rotate);
  }
}

/// bias: of the head, in device memory.
__device__ __forceinline__ void add_bias(PairValues& values, const float* bias, const VectorPair& pair) {
#pragma unroll
  for (int i = 0; i < kVectorChannels; ++i) values.first[i] += __ldg(bias + pair.first_channel + i);
#pragma unroll
  for (int i = 0; i < kVectorChannels; ++i) values.second[i] += __ldg(bias + pair.second_channel + i);
}

}  // namespace pikv::kernels
