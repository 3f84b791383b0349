// Re-anchoring where vectors cannot serve: channels apart (llama.cpp's transposed V), odd head sizes, odd strides.
//
// Grid as in reanchor.cuh. The threads of a block share the pairs and channels of 32 tokens. Neighbouring threads
// take neighbouring tokens where those lie closer together in the target than channels do, and neighbouring channels
// otherwise, so that stores coalesce as far as the layout lets them.
#include "element_access.cuh"
#include "launch.hpp"
#include "pikv/detail/rotate.hpp"
#include "token_place.cuh"

namespace pikv::kernels {
namespace {

struct Element {
  const ReanchorParams& params;
  const Run& run;
  bool is_key;
  SourceKind kind;
  DType type;
  std::int32_t layer;

  [[nodiscard]] __device__ const Plane& source_plane() const { return is_key ? run.k : run.v; }
  [[nodiscard]] __device__ const Plane& target_plane() const { return is_key ? params.target.k : params.target.v; }

  [[nodiscard]] __device__ float read(const TokenPlace& place, std::int32_t head, std::int32_t channel) const {
    return read_element(run, is_key ? run.k_decoding : run.v_decoding, is_key, kind, place.source, source_plane(),
                        {layer, place.source_slot, head, channel}, params.num_kv_heads, params.head_dim);
  }
  [[nodiscard]] __device__ std::byte* out(const TokenPlace& place, std::int32_t head, std::int32_t channel) const {
    return place.target + head * target_plane().head_bytes + channel * target_plane().dim_bytes;
  }
  __device__ void write(const TokenPlace& place, std::int32_t head, std::int32_t channel, float value) const {
    const KvScales& scales = params.target.scales;
    const float* const table = is_key ? scales.k : scales.v;
    const float scale = type == DType::kFloat8E4M3 && table != nullptr
                            ? table[layer * scales.layer_stride + head * scales.head_stride]
                            : 1.0F;
    store_float(out(place, head, channel), type, value, scale);
  }

  __device__ void move_pair(const TokenPlace& place, std::int32_t head, std::int32_t pair) const {
    const std::int32_t half = params.rope.half_dim;
    const bool interleaves = params.rope.pairing == Pairing::kInterleaved;
    const std::int32_t first = interleaves ? 2 * pair : pair;
    const std::int32_t second = interleaves ? 2 * pair + 1 : pair + half;
    const float x = read(place, head, first);
    const float y = read(place, head, second);
    const float cos = params.rope.cos(place.position)[pair];
    const float sin = params.rope.sin(place.position)[pair];
    const detail::RotatedPair turned =
        params.turns_back ? detail::unrotate(x, y, cos, sin, params.inverse_square) : detail::rotate(x, y, cos, sin);
    write(place, head, first, turned.first);
    write(place, head, second, turned.second);
  }

  __device__ void move_channel(const TokenPlace& place, std::int32_t head, std::int32_t channel) const {
    if (static_cast<int>(kind) != static_cast<int>(type) || type == DType::kFloat8E4M3) {
      return write(place, head, channel, read(place, head, channel));
    }
    // Equal types are copied as bytes, so that a NaN keeps its payload.
    const std::byte* const from = place.source + head * source_plane().head_bytes + channel * source_plane().dim_bytes;
    if (type == DType::kFloat32) return store_as(out(place, head, channel), load_as<std::uint32_t>(from));
    store_as(out(place, head, channel), load_as<std::uint16_t>(from));
  }
};

__global__ __launch_bounds__(kThreads) void reanchor_elements(const __grid_constant__ ReanchorParams params,
                                                              SourceKind kind, DType type) {
  __shared__ TokenPlace places[kElementBlockTokens];
  const bool is_key = params.planes == kValues ? false : blockIdx.y == 0;
  const auto layer_index = static_cast<std::int32_t>(blockIdx.z);
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  const std::int32_t run_index = find_run(params, block);
  const Run& run = params.runs[run_index];
  const std::int32_t block_index = block - params.first_blocks[run_index];
  const std::int64_t begin = std::int64_t{block_index} * kElementBlockTokens;
  const std::int64_t rest = run.target_slots.num_tokens() - begin;
  const auto num_tokens = static_cast<std::int32_t>(rest < kElementBlockTokens ? rest : kElementBlockTokens);
  if (const auto i = static_cast<std::int32_t>(threadIdx.x); i < num_tokens) {
    places[i] = is_key ? place_token<true>(params, run, layer_index, begin + i)
                       : place_token<false>(params, run, layer_index, begin + i);
  }
  __syncthreads();

  const Element element{params, run, is_key, kind, type, params.layer_begin + layer_index};
  const std::int32_t num_pairs = is_key ? params.rope.half_dim : 0;
  const std::int32_t head_items = params.head_dim - num_pairs;  // a pair is one item
  const std::int32_t row_items = params.num_kv_heads * head_items;
  const Plane& target_plane = element.target_plane();
  const std::int64_t token_bytes =
      params.target.page_size.value == 1 ? target_plane.page_bytes : target_plane.token_bytes;
  const bool tokens_first = token_bytes < target_plane.dim_bytes;

  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < row_items * num_tokens; i += kThreads) {
    const TokenPlace& place = places[tokens_first ? i % num_tokens : i / row_items];
    if (place.target == nullptr) continue;
    const std::int32_t item = tokens_first ? i / num_tokens : i % row_items;
    const std::int32_t head = item / head_items;
    const std::int32_t at = item % head_items;
    if (at < num_pairs) {
      element.move_pair(place, head, at);
    } else {
      element.move_channel(place, head, num_pairs + at);
    }
  }
}

}  // namespace

cudaError_t launch_reanchor_elements(const ReanchorParams& params, SourceKind source, DType target,
                                     cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_blocks), params.planes == (kKeys | kValues) ? 2U : 1U,
                  static_cast<unsigned>(params.num_layers));
  reanchor_elements<<<grid, kThreads, 0, stream>>>(params, source, target);
  return cudaGetLastError();
}

}  // namespace pikv::kernels
