// Re-anchoring in one pass, by vectors: a chunk's keys and values are read once, made numbers, keys are turned, and
// both are written once into an engine's pages. Un-anchoring is the same with the turn inverted.
//
// Grid: x blocks of 256 items of a run, y planes (keys, values), z layers. An item is one thread's: 16 channels of one
// head, as two vectors of 8 half a rotation apart, so that both members of a half-split pair are its own, of one token
// or a few consecutive ones. Every byte is read and written once, in accesses of 16 bytes for 16-bit types, and a
// thread reads 8 cosines and sines a token, which the heads of the token share in the first-level cache.
//
// There is no shared memory and no barrier: many short threads, most of them waiting for memory, are what keeps a GPU's
// memory busy. Each finds its own token's place, which costs arithmetic that is free here.
#pragma once

#include <cstdint>

#include "launch.hpp"
#include "pikv/detail/rotate.hpp"
#include "token_place.cuh"
#include "vector_pair.cuh"
#include "vector_source.cuh"
#include "vector_target.cuh"

namespace pikv::kernels {

/// Blocks that must fit a multiprocessor at once, which bounds their registers: measured on an H100, more spill and
/// fewer leave memory waiting.
template <SourceKind kKind>
inline constexpr int kBlocksPerMultiprocessor = kKind <= SourceKind::kBFloat16     ? 6
                                                : kKind == SourceKind::kFloat8E4M3 ? 5
                                                                                   : 3;

/// One item: a thread's channels of its tokens.
template <SourceKind kKind, DType kType, Pairing kPairing, bool kIsKey>
__device__ __forceinline__ void move_item(const ReanchorParams& params) {
  using Source = VectorSource<kKind, kIsKey, GlobalMemory>;
  using Target = VectorTarget<kType>;
  constexpr std::int32_t kTokens = tokens_per_thread(kKind);

  const Run& run = find_run(params, static_cast<std::int32_t>(blockIdx.x));
  const std::uint32_t item = (blockIdx.x - static_cast<std::uint32_t>(run.first_block)) * kThreads + threadIdx.x;
  const std::int32_t half_dim = kIsKey ? params.rope.half_dim : 0;
  const auto head_units = static_cast<std::uint32_t>(units_per_head(params.head_dim, half_dim));
  const std::uint32_t row_units = head_units * static_cast<std::uint32_t>(params.num_kv_heads);
  const std::int64_t first_token = std::int64_t{item / row_units} * kTokens;
  const std::int64_t num_tokens = run.target_slots.num_tokens();
  if (first_token >= num_tokens) return;
  const auto layer_index = static_cast<std::int32_t>(blockIdx.z);
  const std::int32_t layer = params.layer_begin + layer_index;
  const auto head = static_cast<std::int32_t>(item % row_units / head_units);
  const VectorPair pair = vectors_of_unit(static_cast<std::int32_t>(item % head_units), params.head_dim, half_dim);

  VectorPlace place{
      kIsKey ? run.k_decoding : run.v_decoding, layer, params.num_kv_heads, params.head_dim, head, pair.first_channel};
  Source first_source(place);
  if (pair.has_second) place.channel = pair.second_channel;
  Source second_source(place);

  TokenPlace tokens[kTokens];
  typename Source::Raw first_raw[kTokens];
  typename Source::Raw second_raw[kTokens];
#pragma unroll
  for (std::int32_t i = 0; i < kTokens; ++i) {
    tokens[i].target = nullptr;
    if (first_token + i < num_tokens) tokens[i] = place_token<kIsKey>(params, run, layer_index, first_token + i);
  }
#pragma unroll
  for (std::int32_t i = 0; i < kTokens; ++i) {
    if (tokens[i].target == nullptr) continue;
    const std::byte* const head_row = tokens[i].source + head * (kIsKey ? run.k : run.v).head_bytes;
    first_raw[i] = first_source.load(head_row, tokens[i].source_slot);
    if (pair.has_second) second_raw[i] = second_source.load(head_row, tokens[i].source_slot);
  }

  const KvScales& scales = params.target.scales;
  const float* const target_scales = kIsKey ? scales.k : scales.v;
  const float scale = kType == DType::kFloat8E4M3 && target_scales != nullptr
                          ? __ldg(target_scales + layer * scales.layer_stride + head * scales.head_stride)
                          : 1.0F;
  const float* const bias = kIsKey && run.key_bias != nullptr
                                ? run.key_bias + (std::int64_t{layer} * params.num_kv_heads + head) * params.head_dim
                                : nullptr;
#pragma unroll
  for (std::int32_t i = 0; i < kTokens; ++i) {
    if (tokens[i].target == nullptr) continue;
    std::byte* const head_row = tokens[i].target + head * (kIsKey ? params.target.k : params.target.v).head_bytes;
    std::byte* const first_out = head_row + pair.first_channel * Target::kBytes;
    std::byte* const second_out = head_row + pair.second_channel * Target::kBytes;
    if constexpr (kIsCopy<kKind, kType>) {
      if (!kIsKey || !pair.turns) {
        Target::copy(first_out, first_raw[i], params.streams);
        if (pair.has_second) Target::copy(second_out, second_raw[i], params.streams);
        continue;
      }
    }
    const std::int32_t slot = tokens[i].source_slot;
    float first[kVectorChannels];
    float second[kVectorChannels];
    first_source.decode(first_raw[i], slot, first);
    if (pair.has_second) second_source.decode(second_raw[i], slot, second);
    if constexpr (kIsKey) {
      if (bias != nullptr && !(kKind == SourceKind::kInt4 && slot < kInt4SinkTokens)) {
        add_bias(first, bias + pair.first_channel);
        if (pair.has_second) add_bias(second, bias + pair.second_channel);
      }
      if (pair.turns) {
        const Position position = tokens[i].position;
        turn<kPairing, GlobalMemory>(first, second, pair, reinterpret_cast<const std::byte*>(params.rope.cos(position)),
                                     reinterpret_cast<const std::byte*>(params.rope.sin(position)), params.turns_back,
                                     params.inverse_square);
      }
    }
    Target::store(first_out, first, scale, params.streams);
    if (pair.has_second) Target::store(second_out, second, scale, params.streams);
  }
}

template <SourceKind kKind, DType kType, Pairing kPairing>
__global__ __launch_bounds__(kThreads, kBlocksPerMultiprocessor<kKind>) void reanchor_vectors(
    const __grid_constant__ ReanchorParams params) {
  if (params.planes != kValues && blockIdx.y == 0) {
    move_item<kKind, kType, kPairing, true>(params);
  } else {
    move_item<kKind, kType, kPairing, false>(params);
  }
}

template <SourceKind kKind, DType kType>
[[nodiscard]] cudaError_t launch_vectors_to(const ReanchorParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_blocks), params.planes == (kKeys | kValues) ? 2U : 1U,
                  static_cast<unsigned>(params.num_layers));
  if (params.rope.pairing == Pairing::kHalfSplit) {
    reanchor_vectors<kKind, kType, Pairing::kHalfSplit><<<grid, kThreads, 0, stream>>>(params);
  } else {
    reanchor_vectors<kKind, kType, Pairing::kInterleaved><<<grid, kThreads, 0, stream>>>(params);
  }
  return cudaPeekAtLastError() == cudaSuccess ? cudaSuccess : cudaGetLastError();
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
