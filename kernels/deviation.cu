// How far fresh rows lie from cached ones.
//
// A warp has one row; its lanes share the row's vectors (16 channels a lane at once, two loads of 16 bytes from either
// side for 16-bit types) or, where a layout does not serve vectors, its pairs of channels. Lanes are summed in a fixed
// order. Reads each element once.
#include <cuda_runtime_api.h>

#include "element_access.cuh"
#include "kind_pairs.cuh"
#include "pair_source.cuh"
#include "pikv/detail/rotate.hpp"
#include "score.hpp"
#include "score_row.cuh"

namespace pikv::kernels {
namespace {

constexpr int kWarpsPerBlock = kThreads / kWarpLanes;

/// Rows where they stand, or null: one of them does not exist.
struct RowPair {
  const std::byte* fresh;
  const std::byte* cached;
};

template <bool kIsKey>
[[nodiscard]] __device__ RowPair find_rows(const DeviationParams& params, std::uint32_t row) {
  return {row_address<kIsKey>(params.fresh, row), row_address<kIsKey>(params.cached, row)};
}

[[nodiscard]] __device__ __forceinline__ float add_square(float sum, float a, float b) {
  const float difference = a - b;
  return __fmaf_rn(difference, difference, sum);
}

template <SourceKind kFresh, SourceKind kCached, bool kIsKey>
[[nodiscard]] __device__ float sum_vectors(const DeviationParams& params, const RowPair& rows, Position position,
                                           std::uint32_t lane) {
  using Fresh = PairSource<kFresh, kIsKey>;
  using Cached = PairSource<kCached, kIsKey>;
  const Plane& fresh_plane = kIsKey ? params.fresh.k : params.fresh.v;
  const Plane& cached_plane = kIsKey ? params.cached.k : params.cached.v;
  const Divisor& units = kIsKey ? params.key_units : params.value_units;
  const std::uint32_t half_dim = kIsKey ? static_cast<std::uint32_t>(params.rope.half_dim) : 0;
  const auto head_dim = static_cast<std::uint32_t>(params.head_dim);
  const Decoding none{};
  float sum = 0;
  const std::uint32_t num_units = units.value * static_cast<std::uint32_t>(params.num_kv_heads);
#pragma unroll 2
  for (std::uint32_t i = lane; i < num_units; i += kWarpLanes) {
    const std::uint32_t head = units.quotient(i);
    const VectorPair pair = vectors_of_unit(i - head * units.value, head_dim, half_dim);
    const PairPlace fresh_place{fresh_plane, none, 0, 0, head_dim, 0, head, pair};
    const PairPlace cached_place{cached_plane, none, 0, 0, head_dim, 0, head, pair};
    const auto raw_fresh = Fresh::load(fresh_place, rows.fresh + std::uint64_t{head} * fresh_plane.head_bytes);
    const auto raw_cached = Cached::load(cached_place, rows.cached + std::uint64_t{head} * cached_plane.head_bytes);
    PairValues fresh;
    PairValues cached;
    Fresh::decode(raw_fresh, fresh_place, fresh);
    Cached::decode(raw_cached, cached_place, cached);
    if (kIsKey && pair.turns) {
      if (params.rope.pairing == Pairing::kHalfSplit) {
        turn<Pairing::kHalfSplit>(fresh, load_angles<Pairing::kHalfSplit>(params.rope, position, pair), false, 1.0F);
      } else {
        turn<Pairing::kInterleaved>(fresh, load_angles<Pairing::kInterleaved>(params.rope, position, pair), false,
                                    1.0F);
      }
    }
#pragma unroll
    for (int c = 0; c < kVectorChannels; ++c) sum = add_square(sum, fresh.first[c], cached.first[c]);
    if (pair.second_channel == pair.first_channel) continue;
#pragma unroll
    for (int c = 0; c < kVectorChannels; ++c) sum = add_square(sum, fresh.second[c], cached.second[c]);
  }
  return sum;
}

template <bool kIsKey>
[[nodiscard]] __device__ float sum_elements(const DeviationParams& params, const RowPair& rows, Position position,
                                            std::uint32_t lane) {
  const Plane& fresh_plane = kIsKey ? params.fresh.k : params.fresh.v;
  const Plane& cached_plane = kIsKey ? params.cached.k : params.cached.v;
  const std::int32_t half = kIsKey ? params.rope.half_dim : 0;
  const std::int32_t units = params.head_dim - half;  // pairs that turn, then channels
  const bool interleaves = params.rope.pairing == Pairing::kInterleaved;
  const auto fresh_at = [&](std::int32_t head, std::int32_t channel) {
    return load_float(rows.fresh + std::uint64_t{fresh_plane.head_bytes} * static_cast<std::uint32_t>(head) +
                          std::uint64_t{fresh_plane.dim_bytes} * static_cast<std::uint32_t>(channel),
                      params.fresh.kind);
  };
  const auto cached_at = [&](std::int32_t head, std::int32_t channel) {
    return load_float(rows.cached + std::uint64_t{cached_plane.head_bytes} * static_cast<std::uint32_t>(head) +
                          std::uint64_t{cached_plane.dim_bytes} * static_cast<std::uint32_t>(channel),
                      params.cached.kind);
  };
  float sum = 0;
  for (std::int32_t head = 0; head < params.num_kv_heads; ++head) {
    for (auto unit = static_cast<std::int32_t>(lane); unit < units; unit += kWarpLanes) {
      if (unit >= half) {
        const std::int32_t channel = unit + half;
        sum = add_square(sum, fresh_at(head, channel), cached_at(head, channel));
        continue;
      }
      const std::int32_t first = interleaves ? 2 * unit : unit;
      const std::int32_t second = interleaves ? 2 * unit + 1 : unit + half;
      const detail::RotatedPair turned =
          detail::rotate(fresh_at(head, first), fresh_at(head, second), params.rope.cos(position)[unit],
                         params.rope.sin(position)[unit]);
      sum = add_square(sum, turned.first, cached_at(head, first));
      sum = add_square(sum, turned.second, cached_at(head, second));
    }
  }
  return sum;
}

struct ByElements {
  template <bool kIsKey>
  [[nodiscard]] static __device__ float sum(const DeviationParams& params, const RowPair& rows, Position position,
                                            std::uint32_t lane) {
    return sum_elements<kIsKey>(params, rows, position, lane);
  }
};
template <SourceKind kFresh, SourceKind kCached>
struct ByVectors {
  template <bool kIsKey>
  [[nodiscard]] static __device__ float sum(const DeviationParams& params, const RowPair& rows, Position position,
                                            std::uint32_t lane) {
    return sum_vectors<kFresh, kCached, kIsKey>(params, rows, position, lane);
  }
};

template <class How>
__global__ void __launch_bounds__(kThreads) add_deviation(const DeviationParams params) {
  const std::uint32_t row = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarpLanes;
  const std::uint32_t lane = threadIdx.x % kWarpLanes;
  if (row >= static_cast<std::uint32_t>(params.num_rows)) return;
  float sum = 0;
  if (params.key_weight != 0) {
    const RowPair rows = find_rows<true>(params, row);
    const Position position = params.rope.turns() ? params.positions.position(row) : 0;
    const bool has_position = !params.rope.turns() || in_range(position, params.rope.num_positions);
    if (rows.fresh != nullptr && rows.cached != nullptr && has_position) {
      sum += params.key_weight * How::template sum<true>(params, rows, position, lane);
    }
  }
  if (params.value_weight != 0) {
    const RowPair rows = find_rows<false>(params, row);
    if (rows.fresh != nullptr && rows.cached != nullptr) {
      sum += params.value_weight * How::template sum<false>(params, rows, 0, lane);
    }
  }
#pragma unroll
  for (int apart = kWarpLanes / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, apart);
  if (lane == 0) params.scores[row] += sum;
}

template <class How>
cudaError_t launch(const DeviationParams& params, cudaStream_t stream) {
  const auto num_blocks = (static_cast<unsigned>(params.num_rows) + kWarpsPerBlock - 1) / kWarpsPerBlock;
  add_deviation<How><<<num_blocks, kThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_deviation(const DeviationParams& params, cudaStream_t stream) {
  if (!params.is_vectorizable) return launch<ByElements>(params, stream);
  return launch_for_kinds<ByVectors>(params.fresh.kind, params.cached.kind,
                                     [&]<class How>() { return launch<How>(params, stream); });
}

}  // namespace pikv::kernels
