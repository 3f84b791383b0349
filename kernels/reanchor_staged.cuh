// Re-anchoring through shared memory: the fast path where numbers are decoded or encoded on the way.
//
// Blocks stay on their multiprocessor and walk over the tiles of the transfer: some tokens of one run, of keys or of
// values, in one layer. One warp runs ahead and has the copy engine bring rows, scales and table rows of the next tiles
// into a ring of stages; eight warps decode, turn and write. Reads of about 100 KB are thus under way on every
// multiprocessor at any time, whatever the registers that decoding takes, and nobody waits for them. Mapping of threads
// to channels, arithmetic and stores are those of reanchor.cuh.
#pragma once

#include <cstdint>

#include "async_copy.cuh"
#include "launch.hpp"
#include "token_place.cuh"
#include "vector_pair.cuh"
#include "vector_source.cuh"
#include "vector_target.cuh"

namespace pikv::kernels {

inline constexpr int kConsumerWarps = kThreads / 32;
inline constexpr int kStagedThreads = kThreads + 32;

/// A token of a stage.
struct StagedToken {
  std::byte* target;  ///< head 0, channel 0; null: left out
  std::int32_t slot;  ///< of the source
  std::int32_t unused;
};
static_assert(sizeof(StagedToken) == kStagedTokenBytes);

/// What the consuming warps are told about a stage, before its tokens.
struct StagedHeader {
  const float* bias;               ///< [H][D] of the layer; null: none
  const std::byte* sinks;          ///< of the layer
  const std::byte* float8_scales;  ///< of the layer, in device memory; null: 1
  std::int32_t num_tokens;
  std::int32_t layer;
  std::int32_t base_slot;     ///< see StagedScales
  std::int32_t to_slot_zero;  ///< likewise
  std::int32_t is_key;
  std::int32_t scale_head_bytes;  ///< of float8_scales
};
static_assert(sizeof(StagedHeader) == kStagedHeaderBytes);

/// Tile `index` of a transfer, counted over tiles, then planes, then layers.
struct StagedTile {
  const Run& run;
  std::int32_t layer_index;
  bool is_key;
  std::int64_t first_token;  ///< of the run
  std::int32_t num_tokens;

  [[nodiscard]] static __device__ __forceinline__ StagedTile at(const ReanchorParams& params, std::uint32_t index) {
    const auto tiles = static_cast<std::uint32_t>(params.num_blocks);
    const std::uint32_t num_planes = params.planes == (kKeys | kValues) ? 2 : 1;
    const auto tile = static_cast<std::int32_t>(index % tiles);
    const std::uint32_t plane = index / tiles;
    const Run& run = find_run(params, tile);
    const std::int64_t first = std::int64_t{tile - run.first_block} * params.staging.tile_tokens;
    const std::int64_t rest = run.target_slots.num_tokens() - first;
    return {run, static_cast<std::int32_t>(plane / num_planes),
            params.planes == kKeys || (params.planes != kValues && plane % num_planes == 0), first,
            static_cast<std::int32_t>(rest < params.staging.tile_tokens ? rest : params.staging.tile_tokens)};
  }
};

/// Scales of a tile of int8 or int4, in memory and in the stage.
struct StagedScales {
  const std::byte* global;    ///< a multiple of 16
  std::uint32_t num_bytes;    ///< a multiple of 16
  std::int32_t to_slot_zero;  ///< bytes from the stage's first to where the scale of slot `base_slot` lies or would lie
  std::int32_t base_slot;     ///< what decoders count slots from
};

/// first_slot: of the tile, whose slots are consecutive.
template <SourceKind kKind, bool kIsKey>
[[nodiscard]] __device__ __forceinline__ StagedScales stage_scales(const ReanchorParams& params, const Run& run,
                                                                   std::int32_t layer, std::int32_t first_slot,
                                                                   std::int32_t num_tokens) {
  const Decoding& decoding = kIsKey ? run.k_decoding : run.v_decoding;
  const std::byte* const scales = decoding.scales + layer * decoding.layer_bytes;
  const std::int32_t row = params.num_kv_heads * params.head_dim;
  if constexpr (kKind == SourceKind::kInt8 && kIsKey) {
    return {scales, static_cast<std::uint32_t>(row) * 2, 0, 0};
  } else if constexpr (kKind == SourceKind::kInt4 && kIsKey) {
    constexpr auto kGroup = static_cast<std::int32_t>(kInt4GroupTokens);
    const std::int32_t first_group = first_slot / kGroup;
    const std::int32_t num_groups = (first_slot + num_tokens - 1) / kGroup - first_group + 1;
    // One group further back than staged, so that only sinks have slots below kInt4SinkTokens.
    const std::int32_t base_group = first_group > 0 ? first_group - 1 : 0;
    return {scales + std::int64_t{first_group} * row * 4, static_cast<std::uint32_t>(num_groups * row * 4),
            (base_group - first_group) * row * 4, base_group * kGroup};
  } else {
    constexpr auto kGroup = static_cast<std::int32_t>(kInt4GroupChannels);
    const std::int32_t token_bytes = kKind == SourceKind::kInt8
                                         ? params.num_kv_heads * 2
                                         : params.num_kv_heads * ((params.head_dim + kGroup - 1) / kGroup) * 4;
    const std::int64_t begin = std::int64_t{first_slot} * token_bytes;
    const std::int64_t aligned = begin / 16 * 16;
    const std::int64_t end = begin + std::int64_t{num_tokens} * token_bytes;
    // Sections end on 64 bytes, so rounding up stays within the slab.
    const auto num_bytes = static_cast<std::uint32_t>((end - aligned + 15) / 16 * 16);
    const std::int32_t base_slot = first_slot < 64 ? 0 : first_slot - 64;
    return {scales + aligned, num_bytes, static_cast<std::int32_t>(std::int64_t{base_slot} * token_bytes - aligned),
            base_slot};
  }
}

/// By the whole producing warp: a lane for each token.
template <SourceKind kKind, bool kIsKey>
__device__ __forceinline__ void stage_tile(const ReanchorParams& params, const StagedTile& tile, std::byte* stage,
                                           Barrier& arrived) {
  constexpr bool kCopiesScales = kKind == SourceKind::kInt8 || kKind == SourceKind::kInt4;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const Staging& staging = params.staging;
  const std::int32_t layer = params.layer_begin + tile.layer_index;
  const Decoding& decoding = kIsKey ? tile.run.k_decoding : tile.run.v_decoding;
  TokenPlace place{};
  if (lane < tile.num_tokens) place = place_token<kIsKey>(params, tile.run, tile.layer_index, tile.first_token + lane);
  const bool moves = place.target != nullptr;

  const bool turns = kIsKey && params.rope.turns();
  const auto piece_bytes = static_cast<std::uint32_t>(staging.piece_bytes);
  const auto table_bytes = turns ? static_cast<std::uint32_t>(params.rope.half_dim) * 8 : 0U;
  const auto num_moving = static_cast<std::uint32_t>(__popc(__ballot_sync(~0U, moves)));
  std::uint32_t num_bytes =
      num_moving * (piece_bytes * static_cast<std::uint32_t>(staging.pieces_per_token) + table_bytes);
  StagedScales scales{};
  if constexpr (kCopiesScales) {
    const auto first_slot = static_cast<std::int32_t>(tile.run.source_slots.slot(tile.first_token));
    scales = stage_scales<kKind, kIsKey>(params, tile.run, layer, first_slot, tile.num_tokens);
    num_bytes += scales.num_bytes;
  }
  std::byte* const header = stage + staging.tokens_offset;
  if (lane < tile.num_tokens) {
    reinterpret_cast<StagedToken*>(header + kStagedHeaderBytes)[lane] = {place.target, place.source_slot, 0};
  }
  if (lane == 0) {
    const float* const bias = kIsKey && tile.run.key_bias != nullptr
                                  ? tile.run.key_bias + std::int64_t{layer} * params.num_kv_heads * params.head_dim
                                  : nullptr;
    *reinterpret_cast<StagedHeader*>(header) = {
        bias,
        decoding.sinks + layer * decoding.sink_layer_bytes,
        decoding.scales == nullptr ? nullptr : decoding.scales + layer * decoding.layer_bytes,
        tile.num_tokens,
        layer,
        scales.base_slot,
        scales.to_slot_zero,
        kIsKey,
        static_cast<std::int32_t>(decoding.head_bytes)};
  }
  __syncwarp();
  if (lane == 0) arrived.arrive_expecting(num_bytes);
  __syncwarp();
  if constexpr (kCopiesScales) {
    if (lane == 0) arrived.copy(stage + staging.scales_offset, scales.global, scales.num_bytes);
  }
  if (!moves) return;
  const Plane& plane = kIsKey ? tile.run.k : tile.run.v;
  std::byte* const row = stage + lane * staging.pieces_per_token * staging.piece_bytes;
  for (std::int32_t piece = 0; piece < staging.pieces_per_token; ++piece) {
    arrived.copy(row + piece * staging.piece_bytes, place.source + piece * plane.head_bytes, piece_bytes);
  }
  if (turns)
    arrived.copy(stage + staging.table_offset + lane * table_bytes, params.rope.cos(place.position), table_bytes);
}

/// What a consuming thread does in every tile of keys, or of values.
template <bool kIsKey>
struct ThreadShare {
  std::int32_t first_row;     ///< of the tile; beyond every tile for threads that have nothing to do
  std::int32_t rows_at_once;  ///< to the next row
  std::int32_t head;
  VectorPair pair;

  explicit __device__ ThreadShare(const ReanchorParams& params) {
    const std::int32_t half_dim = kIsKey ? params.rope.half_dim : 0;
    const std::int32_t head_units = units_per_head(params.head_dim, half_dim);
    const std::int32_t row_units = head_units * params.num_kv_heads;
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
    rows_at_once = kThreads / row_units;
    first_row = thread / row_units;
    if (first_row >= rows_at_once) first_row = kMaxTileTokens;
    const std::int32_t unit = thread % row_units;
    head = unit / head_units;
    pair = vectors_of_unit(unit % head_units, params.head_dim, half_dim);
  }
};

/// By the consuming warps: their part of a tile that has arrived.
template <SourceKind kKind, DType kType, Pairing kPairing, bool kIsKey>
__device__ __forceinline__ void move_staged(const ReanchorParams& params, const ThreadShare<kIsKey>& share,
                                            const StagedHeader& header, const std::byte* stage) {
  using Source = VectorSource<kKind, kIsKey, SharedMemory>;
  using Target = VectorTarget<kType>;
  const std::int32_t num_tokens = header.num_tokens;
  if (share.first_row >= num_tokens) return;
  const Staging& staging = params.staging;
  const VectorPair& pair = share.pair;
  const std::int32_t head = share.head;

  Decoding decoding;  // of the stage, and of its layer alone
  decoding.scales =
      kKind == SourceKind::kFloat8E4M3 ? header.float8_scales : stage + staging.scales_offset + header.to_slot_zero;
  decoding.head_bytes = header.scale_head_bytes;
  decoding.sinks = header.sinks;
  VectorPlace place{decoding, 0, params.num_kv_heads, params.head_dim, head, pair.first_channel};
  Source first_source(place);
  if (pair.has_second) place.channel = pair.second_channel;
  Source second_source(place);

  const KvScales& target_scales = params.target.scales;
  const float* const target_table = kIsKey ? target_scales.k : target_scales.v;
  const float scale =
      kType == DType::kFloat8E4M3 && target_table != nullptr
          ? __ldg(target_table + header.layer * target_scales.layer_stride + head * target_scales.head_stride)
          : 1.0F;
  const float* const bias = kIsKey && header.bias != nullptr ? header.bias + head * params.head_dim : nullptr;
  const std::int64_t first_out =
      head * (kIsKey ? params.target.k : params.target.v).head_bytes + pair.first_channel * Target::kBytes;
  const std::int32_t second_out = (pair.second_channel - pair.first_channel) * Target::kBytes;
  const std::int32_t row_bytes = params.num_kv_heads * staging.head_bytes;
  const std::int32_t table_bytes = params.rope.half_dim * 8;
  const auto* const tokens = reinterpret_cast<const StagedToken*>(stage + staging.tokens_offset + kStagedHeaderBytes);

  for (std::int32_t row = share.first_row; row < num_tokens; row += share.rows_at_once) {
    const StagedToken token = tokens[row];
    if (token.target == nullptr) continue;
    const std::byte* const head_row = stage + row * row_bytes + head * staging.head_bytes;
    std::byte* const out = token.target + first_out;
    const std::int32_t slot = token.slot - header.base_slot;
    const typename Source::Raw first_raw = first_source.load(head_row, slot);
    const typename Source::Raw second_raw = pair.has_second ? second_source.load(head_row, slot) : first_raw;
    if constexpr (kIsCopy<kKind, kType>) {
      if (!kIsKey || !pair.turns) {
        Target::copy(out, first_raw, params.streams);
        if (pair.has_second) Target::copy(out + second_out, second_raw, params.streams);
        continue;
      }
    }
    float first[kVectorChannels];
    float second[kVectorChannels];
    first_source.decode(first_raw, slot, first);
    second_source.decode(second_raw, slot, second);
    if constexpr (kIsKey) {
      if (bias != nullptr && !(kKind == SourceKind::kInt4 && slot < kInt4SinkTokens)) {
        add_bias(first, bias + pair.first_channel);
        if (pair.has_second) add_bias(second, bias + pair.second_channel);
      }
      if (pair.turns) {
        const std::byte* const cos = stage + staging.table_offset + row * table_bytes;
        turn<kPairing, SharedMemory>(first, second, pair, cos, cos + table_bytes / 2, params.turns_back,
                                     params.inverse_square);
      }
    }
    Target::store(out, first, scale, params.streams);
    if (pair.has_second) Target::store(out + second_out, second, scale, params.streams);
  }
}

/// A position in the ring of stages; producer and consumers walk over it in the same order.
struct Ring {
  std::byte* memory;
  std::int32_t stage = 0;
  std::uint32_t parity = 0;

  __device__ Ring(std::byte* stages, const Staging& staging) : memory(stages), begin_(stages), staging_(staging) {}
  __device__ void advance() {
    memory += staging_.stage_bytes;
    if (++stage < staging_.num_stages) return;
    stage = 0;
    parity ^= 1U;
    memory = begin_;
  }

 private:
  std::byte* begin_;
  const Staging& staging_;
};

template <SourceKind kKind, DType kType, Pairing kPairing>
__global__ __launch_bounds__(kStagedThreads, kStagedBlocksPerMultiprocessor) void reanchor_staged(
    const __grid_constant__ ReanchorParams params) {
  extern __shared__ __align__(128) std::byte stages[];
  __shared__ Barrier arrived[kMaxStages];
  __shared__ Barrier consumed[kMaxStages];
  const std::int32_t num_stages = params.staging.num_stages;
  if (threadIdx.x == 0) {
    for (std::int32_t stage = 0; stage < num_stages; ++stage) {
      arrived[stage].init(1);
      consumed[stage].init(kConsumerWarps);
    }
  }
  __syncthreads();

  const std::uint32_t num_planes = params.planes == (kKeys | kValues) ? 2 : 1;
  const auto num_tiles =
      static_cast<std::uint32_t>(params.num_blocks) * num_planes * static_cast<std::uint32_t>(params.num_layers);
  Ring ring(stages, params.staging);
  if (threadIdx.x >= kThreads) {
    for (std::uint32_t index = blockIdx.x; index < num_tiles; index += gridDim.x, ring.advance()) {
      const StagedTile tile = StagedTile::at(params, index);
      consumed[ring.stage].wait(ring.parity ^ 1U);  // at once in the first round: the phase before the first has ended
      if (tile.is_key) {
        stage_tile<kKind, true>(params, tile, ring.memory, arrived[ring.stage]);
      } else {
        stage_tile<kKind, false>(params, tile, ring.memory, arrived[ring.stage]);
      }
    }
    return;
  }
  const ThreadShare<true> key_share(params);
  const ThreadShare<false> value_share(params);
  for (std::uint32_t index = blockIdx.x; index < num_tiles; index += gridDim.x, ring.advance()) {
    arrived[ring.stage].wait(ring.parity);
    const auto& header = *reinterpret_cast<const StagedHeader*>(ring.memory + params.staging.tokens_offset);
    if (header.is_key != 0) {
      move_staged<kKind, kType, kPairing, true>(params, key_share, header, ring.memory);
    } else {
      move_staged<kKind, kType, kPairing, false>(params, value_share, header, ring.memory);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) consumed[ring.stage].arrive();
  }
}

template <SourceKind kKind, DType kType>
[[nodiscard]] cudaError_t launch_staged_to(const ReanchorParams& params, cudaStream_t stream) {
  const auto kernel = params.rope.pairing == Pairing::kHalfSplit ? reanchor_staged<kKind, kType, Pairing::kHalfSplit>
                                                                 : reanchor_staged<kKind, kType, Pairing::kInterleaved>;
  const std::int32_t shared_bytes = params.staging.num_stages * params.staging.stage_bytes;
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxStagedBytes);
      error != cudaSuccess) {
    return error;
  }
  const std::int64_t num_planes = params.planes == (kKeys | kValues) ? 2 : 1;
  const std::int64_t num_tiles = params.num_blocks * num_planes * params.num_layers;
  const std::int64_t resident = std::int64_t{params.staging.num_multiprocessors} * kStagedBlocksPerMultiprocessor;
  kernel<<<static_cast<unsigned>(num_tiles < resident ? num_tiles : resident), kStagedThreads,
           static_cast<unsigned>(shared_bytes), stream>>>(params);
  return cudaGetLastError();
}

/// Targets of 32 bits, and 16 bits to 16 bits, go by reanchor.cuh.
template <SourceKind kKind>
[[nodiscard]] cudaError_t launch_staged_from(const ReanchorParams& params, DType target, cudaStream_t stream) {
  if (target == DType::kFloat8E4M3) return launch_staged_to<kKind, DType::kFloat8E4M3>(params, stream);
  if constexpr (kKind >= SourceKind::kFloat8E4M3) {
    if (target == DType::kFloat16) return launch_staged_to<kKind, DType::kFloat16>(params, stream);
    if (target == DType::kBFloat16) return launch_staged_to<kKind, DType::kBFloat16>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pikv::kernels
