// What a thread has of each row whose drift is corrected: two vectors, or where a layout does not serve vectors a pair
// of channels that turns, or one channel. A unit whose second channel is its first has nothing else.
#pragma once

#include <cstddef>
#include <cstdint>

#include "drift_params.hpp"
#include "element_access.cuh"
#include "pikv/detail/rotate.hpp"
#include "score_row.cuh"
#include "vector_target.cuh"

namespace pikv::kernels {

/// What a block has: one head of keys or values.
struct DriftHead {
  std::uint32_t head;
  std::uint32_t half_dim;  // of values 0
  bool is_key;
};

/// Of a grid whose second axis is all heads of keys, then of values.
[[nodiscard]] __device__ __forceinline__ DriftHead head_of_block(const RowAccess& access) {
  const auto num_heads = static_cast<std::uint32_t>(access.num_kv_heads);
  const bool is_key = blockIdx.y < num_heads;
  return {is_key ? blockIdx.y : blockIdx.y - num_heads, is_key ? static_cast<std::uint32_t>(access.rope.half_dim) : 0,
          is_key};
}

[[nodiscard]] __device__ __forceinline__ const Plane& plane_of(const ScoredRows& rows, const DriftHead& at) {
  return at.is_key ? rows.k : rows.v;
}

/// Channel 0 of the head; null where the row does not exist.
[[nodiscard]] __device__ __forceinline__ const std::byte* head_address(const ScoredRows& rows, const DriftHead& at,
                                                                       std::uint32_t row) {
  const std::byte* const token = at.is_key ? row_address<true>(rows, row) : row_address<false>(rows, row);
  return token == nullptr ? nullptr : token + std::uint64_t{at.head} * plane_of(rows, at).head_bytes;
}

/// How a block's threads share rows: a stripe has a row at a time, and each of its threads a unit of it.
struct Stripes {
  std::uint32_t own;
  std::uint32_t count;
  std::uint32_t unit;
  bool has_unit;  // some threads may be left over
};
[[nodiscard]] __device__ __forceinline__ Stripes stripes_of(const RowAccess& access, const DriftHead& at) {
  const Divisor& units = at.is_key ? access.key_units : access.value_units;
  const std::uint32_t own = units.quotient(threadIdx.x);
  const std::uint32_t count = units.quotient(kDriftThreads);
  return {own, count, threadIdx.x - own * units.value, own < count};
}

/// The two vectors of a thread.
template <SourceKind kFresh, SourceKind kCached>
struct ByVectors {
  static constexpr int kChannels = kVectorChannels;
  using Values = PairValues;
  using Unit = VectorPair;
  using Cached = PairSource<kCached, false>;
  using Target = VectorTarget<static_cast<DType>(kCached)>;

  [[nodiscard]] static __device__ Unit unit_of(const RowAccess& access, const DriftHead& at, std::uint32_t index) {
    return vectors_of_unit(index, static_cast<std::uint32_t>(access.head_dim), at.half_dim);
  }

  static __device__ void load_fresh(const RowAccess& access, const ScoredRows& fresh, const DriftHead& at,
                                    const Unit& unit, const std::byte* row, Values& values) {
    const Decoding none{};
    const PairPlace place{
        plane_of(fresh, at), none, 0, 0, static_cast<std::uint32_t>(access.head_dim), 0, at.head, unit};
    PairSource<kFresh, false>::decode(PairSource<kFresh, false>::load(place, row), place, values);
  }

  /// By loads that the same thread may follow by a store.
  static __device__ void load_cached(const RowAccess& access, const DriftHead& at, const Unit& unit,
                                     const std::byte* row, Values& values) {
    const Decoding none{};
    const PairPlace place{
        plane_of(access.cached, at), none, 0, 0, static_cast<std::uint32_t>(access.head_dim), 0, at.head, unit};
    typename Cached::Raw raw;
    read(row + unit.first_channel * Target::kBytes, raw.first);
    read(row + unit.second_channel * Target::kBytes, raw.second);
    Cached::decode(raw, place, values);
  }

  static __device__ void turn_unit(const RowAccess& access, const Unit& unit, Position position, bool back,
                                   Values& values) {
    const RopeTableView& rope = access.rope;
    if (rope.pairing == Pairing::kHalfSplit) {
      turn<Pairing::kHalfSplit>(values, load_angles<Pairing::kHalfSplit>(rope, position, unit), back,
                                rope.inverse_square);
    } else {
      turn<Pairing::kInterleaved>(values, load_angles<Pairing::kInterleaved>(rope, position, unit), back,
                                  rope.inverse_square);
    }
  }

  static __device__ void store_cached(const RowAccess& /*access*/, const DriftHead& /*at*/, const Unit& unit,
                                      std::byte* row, const Values& values) {
    store(row + unit.first_channel * Target::kBytes, Target::encode(values.first, 1.0F), false);
    if (unit.second_channel == unit.first_channel) return;
    store(row + unit.second_channel * Target::kBytes, Target::encode(values.second, 1.0F), false);
  }

 private:
  static __device__ void read(const std::byte* p, Raw16& raw) { raw.words = *reinterpret_cast<const uint4*>(p); }
  static __device__ void read(const std::byte* p, Raw32& raw) {
    raw.low = *reinterpret_cast<const uint4*>(p);
    raw.high = *reinterpret_cast<const uint4*>(p + sizeof(uint4));
  }
};

/// A pair of channels that turns, or one channel.
struct ByElements {
  static constexpr int kChannels = 1;
  struct Values {
    float first[1];
    float second[1];
  };
  struct Unit {
    std::uint32_t first_channel;
    std::uint32_t second_channel;
    bool turns;
    std::uint32_t angle;
  };

  [[nodiscard]] static __device__ Unit unit_of(const RowAccess& access, const DriftHead& at, std::uint32_t index) {
    if (index >= at.half_dim) return {index + at.half_dim, index + at.half_dim, false, 0};
    if (access.rope.pairing == Pairing::kHalfSplit) return {index, index + at.half_dim, true, index};
    return {2 * index, 2 * index + 1, true, index};
  }

  static __device__ void load_fresh(const RowAccess& /*access*/, const ScoredRows& fresh, const DriftHead& at,
                                    const Unit& unit, const std::byte* row, Values& values) {
    load(fresh.kind, plane_of(fresh, at), unit, row, values);
  }
  static __device__ void load_cached(const RowAccess& access, const DriftHead& at, const Unit& unit,
                                     const std::byte* row, Values& values) {
    load(access.cached.kind, plane_of(access.cached, at), unit, row, values);
  }

  static __device__ void turn_unit(const RowAccess& access, const Unit& unit, Position position, bool back,
                                   Values& values) {
    const float cos = access.rope.cos(position)[unit.angle];
    const float sin = access.rope.sin(position)[unit.angle];
    const detail::RotatedPair turned =
        back ? detail::unrotate(values.first[0], values.second[0], cos, sin, access.rope.inverse_square)
             : detail::rotate(values.first[0], values.second[0], cos, sin);
    values.first[0] = turned.first;
    values.second[0] = turned.second;
  }

  static __device__ void store_cached(const RowAccess& access, const DriftHead& at, const Unit& unit, std::byte* row,
                                      const Values& values) {
    const auto type = static_cast<DType>(access.cached.kind);
    store_float(row + offset(plane_of(access.cached, at), unit.first_channel), type, values.first[0], 1.0F);
    if (unit.second_channel == unit.first_channel) return;
    store_float(row + offset(plane_of(access.cached, at), unit.second_channel), type, values.second[0], 1.0F);
  }

 private:
  [[nodiscard]] static __device__ std::uint64_t offset(const Plane& plane, std::uint32_t channel) {
    return std::uint64_t{plane.dim_bytes} * channel;
  }
  static __device__ void load(SourceKind kind, const Plane& plane, const Unit& unit, const std::byte* row,
                              Values& values) {
    values.first[0] = load_float(row + offset(plane, unit.first_channel), kind);
    values.second[0] = load_float(row + offset(plane, unit.second_channel), kind);
  }
};

}  // namespace pikv::kernels
