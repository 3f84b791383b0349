// Re-anchoring in one pass, by vectors: a chunk's keys and values are read once, made numbers, keys are turned, and
// both are written once into an engine's pages. Un-anchoring is the same with the turn inverted.
//
// Grid: x blocks of 128 items of a run, y layers. An item is one thread's: 16 channels of one head of one token, as two
// vectors of 8 half a rotation apart, so that both members of a half-split pair are its own, of keys and of values.
// Every byte is read and written once, in accesses of 16 bytes for 16-bit types, and a thread reads 8 cosines and
// sines, which the heads of the token share in the first-level cache.
//
// There is no shared memory and no barrier: many short threads, most of them waiting for memory, are what keeps a GPU's
// memory busy. Each finds its own token's place, once for keys and values, and has all its reads under way before it
// waits for the first: the first-level cache answers in order, so every wait is as long as one for memory, whatever it
// is for.
#pragma once

#include <cstdint>

#include "launch.hpp"
#include "overlapped_launch.cuh"
#include "pair_source.cuh"
#include "pikv/detail/rotate.hpp"
#include "token_place.cuh"
#include "vector_pair.cuh"
#include "vector_target.cuh"

namespace pikv::kernels {

/// What a thread moves in one plane.
template <SourceKind kKind, DType kType, bool kIsKey>
class PlaneMove {
 public:
  /// slot: of the source; may be negative, if load() is not called then.
  __device__ __forceinline__ PlaneMove(const ReanchorParams& params, const Run& run, std::int32_t layer,
                                       std::int32_t slot, std::uint32_t head, const VectorPair& pair)
      : params_(params),
        run_(run),
        at_{kIsKey ? run.k : run.v,
            kIsKey ? run.k_decoding : run.v_decoding,
            layer,
            static_cast<std::uint32_t>(params.num_kv_heads),
            static_cast<std::uint32_t>(params.head_dim),
            static_cast<std::uint32_t>(slot),
            head,
            pair} {}

  /// Starts to read.
  __device__ __forceinline__ void load() {
    raw_ = Source::load(at_, at_.plane.base + at_.layer * at_.plane.layer_bytes +
                                 slot_offset(at_.plane, run_.page_size, at_.slot) + at_.head * at_.plane.head_bytes);
    if constexpr (kType == DType::kFloat8E4M3) {
      const KvScales& scales = params_.target.scales;
      const float* const table = kIsKey ? scales.k : scales.v;
      scale_ = table == nullptr
                   ? 1.0F
                   : load_again<float>(table + at_.layer * scales.layer_stride + at_.head * scales.head_stride);
    }
  }

  /// Writes to `slot` of the target, keys turned by `angles`.
  template <Pairing kPairing>
  __device__ __forceinline__ void store(std::uint32_t slot, const Angles& angles) const {
    const TargetParams& target = params_.target;
    const Plane& plane = kIsKey ? target.k : target.v;
    std::byte* const row = (kIsKey ? target.k_layers : target.v_layers)[at_.layer - params_.layer_begin] +
                           slot_offset(plane, target.page_size, slot) + at_.head * plane.head_bytes;
    std::byte* const first_out = row + at_.pair.first_channel * Target::kBytes;
    std::byte* const second_out = row + at_.pair.second_channel * Target::kBytes;
    if constexpr (kIsCopy<kKind, kType>) {
      if (!kIsKey || !at_.pair.turns) {
        kernels::store(first_out, raw_.first, params_.streams);
        kernels::store(second_out, raw_.second, params_.streams);
        return;
      }
    }
    PairValues values;
    Source::decode(raw_, at_, values);
    if constexpr (kIsKey) {
      if (run_.key_bias != nullptr && !(kKind == SourceKind::kInt4 && at_.slot < kInt4SinkTokens)) {
        add_bias(values, run_.key_bias + (std::uint64_t{at_.num_heads} * at_.layer + at_.head) * at_.head_dim,
                 at_.pair);
      }
      if (at_.pair.turns) turn<kPairing>(values, angles, params_.turns_back, params_.inverse_square);
    }
    kernels::store(first_out, Target::encode(values.first, scale_), params_.streams);
    kernels::store(second_out, Target::encode(values.second, scale_), params_.streams);
  }

 private:
  using Source = PairSource<kKind, kIsKey>;
  using Target = VectorTarget<kType>;

  const ReanchorParams& params_;
  const Run& run_;
  PairPlace at_;
  typename Source::Raw raw_;
  float scale_;  ///< of fp8 targets
};

template <SourceKind kKind, DType kType, Pairing kPairing>
__global__ __launch_bounds__(kThreads, kBlocksPerMultiprocessor) void reanchor_vectors(
    const __grid_constant__ ReanchorParams params) {
  allow_next_launch();
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  const std::int32_t run_index = find_run(params, block);
  const Run& run = params.runs[run_index];
  const auto item = static_cast<std::uint32_t>(block - params.first_blocks[run_index]) * kThreads + threadIdx.x;
  const std::uint32_t token = params.row_units.quotient(item);
  if (token >= static_cast<std::uint32_t>(run.target_slots.num_tokens())) return;
  const std::uint32_t row_unit = item - token * params.row_units.value;
  const std::uint32_t head = params.head_units.quotient(row_unit);
  const VectorPair pair = vectors_of_unit(row_unit - head * params.head_units.value,
                                          static_cast<std::uint32_t>(params.head_dim), params.unit_half_dim);
  const std::int32_t layer = params.layer_begin + static_cast<std::int32_t>(blockIdx.y);

  wait_for_previous_launch();
  const std::int32_t slot = source_slot(run, token);
  const Position position = turned_position(params, run, token);
  const bool moves_keys = (params.planes & kKeys) != 0;
  const bool moves_values = (params.planes & kValues) != 0;
  PlaneMove<kKind, kType, true> keys(params, run, layer, slot, head, pair);
  PlaneMove<kKind, kType, false> values(params, run, layer, slot, head, pair);
  Angles angles;
  if (slot >= 0) {
    if (moves_keys) keys.load();
    if (moves_values) values.load();
    if (moves_keys && pair.turns && position >= 0) angles = load_angles<kPairing>(params.rope, position, pair);
  }
  const std::int32_t target = target_slot(params, run, token, slot, position);
  if (target < 0) return;
  if (moves_keys) keys.template store<kPairing>(static_cast<std::uint32_t>(target), angles);
  if (moves_values) values.template store<kPairing>(static_cast<std::uint32_t>(target), angles);
}

template <SourceKind kKind, DType kType>
[[nodiscard]] cudaError_t launch_vectors_to(const ReanchorParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_blocks), static_cast<unsigned>(params.num_layers));
  const auto kernel = params.rope.pairing == Pairing::kHalfSplit
                          ? reanchor_vectors<kKind, kType, Pairing::kHalfSplit>
                          : reanchor_vectors<kKind, kType, Pairing::kInterleaved>;
  return launch_overlapped(kernel, grid, kThreads, params, stream);
}

/// Defined in one small file for each kind, so that they compile side by side.
template <SourceKind kKind>
[[nodiscard]] cudaError_t launch_vectors_from(const ReanchorParams& params, DType target, cudaStream_t stream) {
  switch (target) {
    case DType::kFloat32:
      return launch_vectors_to<kKind, DType::kFloat32>(params, stream);
    case DType::kFloat16:
      return launch_vectors_to<kKind, DType::kFloat16>(params, stream);
    case DType::kBFloat16:
      return launch_vectors_to<kKind, DType::kBFloat16>(params, stream);
    case DType::kFloat8E4M3:
      return launch_vectors_to<kKind, DType::kFloat8E4M3>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pikv::kernels
