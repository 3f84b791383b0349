// Re-anchoring between equal types of 16 bits, where a copy is the bound: the same work as reanchor.cuh does, with
// lanes laid out as a copy would lay them out.
//
// Grid: x blocks of 4 warps of a run, y layers. A warp moves a stripe of a token: 64 adjacent vectors of its row of
// keys and the same of its row of values, each lane vectors i and i + 32, so that every access of the warp is of 512
// adjacent bytes. (Vectors of half a rotation apart in one thread make that 128 bytes, four times, which costs 1 to 2 %
// of the memory's rate.) For half-split pairing, lanes half a head apart then exchange one of their two vectors, so
// that each holds both halves of one head, and once more to write them.
#pragma once

#include <cstdint>

#include "launch.hpp"
#include "overlapped_launch.cuh"
#include "pair_source.cuh"
#include "token_place.cuh"
#include "vector_pair.cuh"
#include "vector_target.cuh"

namespace pikv::kernels {

/// Between lanes that are `apart` from each other: the upper one's first vector for the lower one's second. Doing it
/// twice restores both. Called by the whole warp.
__device__ __forceinline__ void exchange(RawPair<Raw16>& vectors, std::uint32_t apart, bool is_upper) {
  const uint4& mine = (is_upper ? vectors.first : vectors.second).words;
  uint4 theirs;
  theirs.x = __shfl_xor_sync(~0U, mine.x, apart);
  theirs.y = __shfl_xor_sync(~0U, mine.y, apart);
  theirs.z = __shfl_xor_sync(~0U, mine.z, apart);
  theirs.w = __shfl_xor_sync(~0U, mine.w, apart);
  (is_upper ? vectors.first : vectors.second).words = theirs;
}

template <SourceKind kKind, Pairing kPairing>
__global__ __launch_bounds__(kThreads, kBlocksPerMultiprocessor) void reanchor_stripes(
    const __grid_constant__ ReanchorParams params) {
  using Source = PairSource<kKind, true>;
  using Target = VectorTarget<static_cast<DType>(kKind)>;
  allow_next_launch();
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  const std::int32_t run_index = find_run(params, block);
  const Run& run = params.runs[run_index];
  const std::uint32_t warp =
      (static_cast<std::uint32_t>(block - params.first_blocks[run_index]) * kThreads + threadIdx.x) / kWarpLanes;
  const std::uint32_t token = params.row_units.quotient(warp);
  if (token >= static_cast<std::uint32_t>(run.target_slots.num_tokens())) return;
  const std::uint32_t lane = threadIdx.x % kWarpLanes;
  const std::uint32_t first_vector = (warp - token * params.row_units.value) * kStripeVectors + lane;
  const std::uint32_t head = params.head_units.quotient(first_vector);  // of the first; whole heads lie between the two
  const std::uint32_t head_vectors = params.head_units.value;
  const std::uint32_t vector = first_vector - head * head_vectors;  // of either head
  const std::uint32_t half_vectors = head_vectors / 2;
  const std::uint32_t heads_apart = params.heads_apart;
  const auto layer_index = static_cast<std::int32_t>(blockIdx.y);
  const std::int32_t layer = params.layer_begin + layer_index;

  // As in reanchor.cuh, all reads are under way before the first is waited for.
  wait_for_previous_launch();
  const std::int32_t slot = source_slot(run, token);
  const Position position = turned_position(params, run, token);
  const bool turns = params.rope.turns();
  RawPair<Raw16> keys;
  RawPair<Raw16> values;
  Angles angles;
  if (slot >= 0) {
    const auto load = [&](const Plane& plane) -> RawPair<Raw16> {
      const std::byte* const first = plane.base + layer * plane.layer_bytes +
                                     slot_offset(plane, run.page_size, static_cast<std::uint32_t>(slot)) +
                                     head * plane.head_bytes + vector * sizeof(uint4);
      return {{load_once<uint4>(first)}, {load_once<uint4>(first + heads_apart * plane.head_bytes)}};
    };
    keys = load(run.k);
    values = load(run.v);
    if (turns && position >= 0) {
      const std::uint32_t vector_of_table =
          kPairing == Pairing::kHalfSplit && vector >= half_vectors ? vector - half_vectors : vector;
      const std::uint32_t channel = vector_of_table * kVectorChannels;
      angles = load_angles<kPairing>(params.rope, position, {channel, channel, true});
    }
  }
  const std::int32_t target = target_slot(params, run, token, slot, position);
  if (target < 0) return;

  const auto write = [&](const Plane& plane, std::byte* const* layers, const RawPair<Raw16>& vectors) {
    std::byte* const first = layers[layer_index] +
                             slot_offset(plane, params.target.page_size, static_cast<std::uint32_t>(target)) +
                             head * plane.head_bytes + vector * sizeof(uint4);
    kernels::store(first, vectors.first, params.streams);
    kernels::store(first + heads_apart * plane.head_bytes, vectors.second, params.streams);
  };
  if (turns) {
    const bool is_upper = vector >= half_vectors;
    if constexpr (kPairing == Pairing::kHalfSplit) exchange(keys, half_vectors, is_upper);
    PairValues numbers;
    Source::decode(keys, numbers);
    turn<kPairing>(numbers, angles, params.turns_back, params.inverse_square);
    keys.first = Target::encode(numbers.first, 1.0F);
    keys.second = Target::encode(numbers.second, 1.0F);
    if constexpr (kPairing == Pairing::kHalfSplit) exchange(keys, half_vectors, is_upper);
  }
  write(params.target.k, params.target.k_layers, keys);
  write(params.target.v, params.target.v_layers, values);
}

template <SourceKind kKind>
[[nodiscard]] cudaError_t launch_stripes_from(const ReanchorParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_blocks), static_cast<unsigned>(params.num_layers));
  const auto kernel = params.rope.pairing == Pairing::kHalfSplit ? reanchor_stripes<kKind, Pairing::kHalfSplit>
                                                                 : reanchor_stripes<kKind, Pairing::kInterleaved>;
  return launch_overlapped(kernel, grid, kThreads, params, stream);
}

}  // namespace pikv::kernels
