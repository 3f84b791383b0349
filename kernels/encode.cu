// Encoding a chunk into a stored format. Done once for each chunk, when it is ingested, so these kernels are plain:
// every element is read by whoever needs it, once to find scales and once to make codes.
//
// Blocks are 32 x 8 threads. x is a channel within a group of 32, which makes accesses of a warp adjacent and an int4
// group of values a warp; y walks over tokens. Grid z is the layer.
#include "element_access.cuh"
#include "launch.hpp"
#include "pikv/detail/quantize.hpp"
#include "pikv/detail/rotate.hpp"
#include "token_place.cuh"

namespace pikv::kernels {
namespace {

constexpr int kLanes = 32;
constexpr int kStrips = 8;
constexpr float kInfinity = __builtin_inff();

/// Keys or values of one layer of the source, as semantic numbers.
class EncodeSource {
 public:
  __device__ EncodeSource(const EncodeParams& params, bool is_key)
      : params_(params), is_key_(is_key), layer_(params.layer_begin + static_cast<std::int32_t>(blockIdx.z)) {}

  [[nodiscard]] __device__ std::byte* slab_layer() const {
    return params_.slab + layer_ * params_.sections.layer_bytes;
  }

  /// Without the bias of a key.
  [[nodiscard]] __device__ float read(std::int64_t token, std::int32_t head, std::int32_t channel) const {
    const Slot slot = slot_of(params_.source_slots, params_.source_table_page, token);
    if (!in_range(slot, params_.num_slots)) return flaw(kBadSlot);
    const float value = load(slot, head, channel);
    const std::int32_t half = params_.rope.half_dim;
    if (!is_key_ || channel >= 2 * half) return value;
    const Position position = params_.positions.position(token);
    if (!in_range(position, params_.rope.num_positions)) return flaw(kBadPosition);
    const bool interleaves = params_.rope.pairing == Pairing::kInterleaved;
    const std::int32_t pair = interleaves ? channel / 2 : channel % half;
    const bool is_first = interleaves ? channel % 2 == 0 : channel < half;
    const std::int32_t step = interleaves ? 1 : half;
    const float partner = load(slot, head, is_first ? channel + step : channel - step);
    const detail::RotatedPair turned =
        detail::unrotate(is_first ? value : partner, is_first ? partner : value, params_.rope.cos(position)[pair],
                         params_.rope.sin(position)[pair], params_.rope.inverse_square);
    return is_first ? turned.first : turned.second;
  }

  /// What is encoded: of keys, what is left without their bias.
  [[nodiscard]] __device__ float read_centred(std::int64_t token, std::int32_t head, std::int32_t channel) const {
    const float value = read(token, head, channel);
    if (!is_key_ || params_.key_bias == nullptr) return value;
    return value - params_.key_bias[(std::int64_t{layer_} * params_.num_kv_heads + head) * params_.head_dim + channel];
  }

 private:
  [[nodiscard]] __device__ float load(Slot slot, std::int32_t head, std::int32_t channel) const {
    const Plane& plane = is_key_ ? params_.k : params_.v;
    const std::byte* const element = plane.base + layer_ * plane.layer_bytes +
                                     slot_offset(plane, params_.page_size, slot) + head * plane.head_bytes +
                                     channel * plane.dim_bytes;
    if (params_.source != SourceKind::kFloat8E4M3) return load_float(element, params_.source);
    const KvScales& scales = params_.source_scales;
    const float* const table = is_key_ ? scales.k : scales.v;
    const float scale = table == nullptr ? 1.0F : table[layer_ * scales.layer_stride + head * scales.head_stride];
    return detail::decode_float8(load_as<std::uint8_t>(element), scale);
  }
  [[nodiscard]] __device__ float flaw(Flaw which) const {
    report_flaw(params_.flaws, which);
    return 0;
  }

  const EncodeParams& params_;
  bool is_key_;
  std::int32_t layer_;
};

struct Range {
  float minimum = kInfinity;
  float maximum = -kInfinity;

  __device__ void include(float value) {
    if (!detail::is_finite(value)) return;
    minimum = fminf(minimum, value);
    maximum = fmaxf(maximum, value);
  }
  __device__ void include(const Range& other) {
    minimum = fminf(minimum, other.minimum);
    maximum = fmaxf(maximum, other.maximum);
  }
  [[nodiscard]] __device__ float largest_magnitude() const {
    return minimum > maximum ? 0.0F : fmaxf(fabsf(minimum), fabsf(maximum));
  }
  [[nodiscard]] __device__ detail::Int4Group group() const {
    return minimum > maximum ? detail::Int4Group{0, 0} : detail::int4_group(minimum, maximum);
  }
};

/// Of the whole warp, in every lane.
[[nodiscard]] __device__ Range warp_range(Range range) {
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    range.include(Range{__shfl_xor_sync(~0U, range.minimum, apart), __shfl_xor_sync(~0U, range.maximum, apart)});
  }
  return range;
}

/// Of all threads with the same x, in every thread. Called by the whole block.
[[nodiscard]] __device__ Range strip_range(const Range& range, Range (&shared)[kStrips][kLanes]) {
  shared[threadIdx.y][threadIdx.x] = range;
  __syncthreads();
  Range all;
  for (int strip = 0; strip < kStrips; ++strip) all.include(shared[strip][threadIdx.x]);
  __syncthreads();
  return all;
}

/// The code of this lane's channel and the next one's, as one byte. Meant for even lanes, called by the whole warp.
[[nodiscard]] __device__ std::uint8_t pack_codes(std::uint8_t code) {
  const std::uint32_t next = __shfl_down_sync(~0U, static_cast<std::uint32_t>(code), 1);
  return static_cast<std::uint8_t>(code | next << 4);
}

[[nodiscard]] __device__ std::int64_t element_index(const EncodeParams& params, std::int64_t token, std::int32_t head,
                                                    std::int32_t channel) {
  return (token * params.num_kv_heads + head) * params.head_dim + channel;
}

__device__ void store_group(std::byte* at, const detail::Int4Group& group) {
  store_as(at, group.scale);
  store_as(at + 2, group.minimum);
}

/// Keeps a sink token's element as it is. True when the token is one.
[[nodiscard]] __device__ bool keep_sink(const EncodeParams& params, const EncodeSource& source, std::int64_t sinks,
                                        std::int64_t token, std::int32_t head, std::int32_t channel) {
  if (token >= kInt4SinkTokens) return false;
  if (channel < params.head_dim) {
    store_as(source.slab_layer() + sinks + element_index(params, token, head, channel) * 2,
             detail::float_to_bfloat16(source.read(token, head, channel)));
  }
  return true;
}

/// Grid: x heads, y planes. One scale for each.
__global__ void encode_float8_heads(const __grid_constant__ EncodeParams params) {
  __shared__ Range shared[kStrips][kLanes];
  const bool is_key = blockIdx.y == 0;
  const auto head = static_cast<std::int32_t>(blockIdx.x);
  const EncodeSource source(params, is_key);
  Range range;
  for (std::int64_t token = threadIdx.y; token < params.num_tokens; token += kStrips) {
    for (auto d = static_cast<std::int32_t>(threadIdx.x); d < params.head_dim; d += kLanes) {
      range.include(source.read_centred(token, head, d));
    }
  }
  const float scale = detail::float8_scale(strip_range(warp_range(range), shared).largest_magnitude());
  std::byte* const layer = source.slab_layer();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    store_as(layer + (is_key ? params.sections.k_scales : params.sections.v_scales) + head * 4, scale);
  }
  std::byte* const codes = layer + (is_key ? params.sections.k_codes : params.sections.v_codes);
  for (std::int64_t token = threadIdx.y; token < params.num_tokens; token += kStrips) {
    for (auto d = static_cast<std::int32_t>(threadIdx.x); d < params.head_dim; d += kLanes) {
      store_as(codes + element_index(params, token, head, d),
               detail::encode_float8(source.read_centred(token, head, d), scale));
    }
  }
}

/// Grid: x heads, y groups of 32 channels. A scale for each channel.
__global__ void encode_int8_keys(const __grid_constant__ EncodeParams params) {
  __shared__ Range shared[kStrips][kLanes];
  const auto head = static_cast<std::int32_t>(blockIdx.x);
  const auto channel = static_cast<std::int32_t>(blockIdx.y * kLanes + threadIdx.x);
  const bool has_channel = channel < params.head_dim;
  const EncodeSource source(params, /*is_key=*/true);
  Range range;
  for (std::int64_t token = threadIdx.y; has_channel && token < params.num_tokens; token += kStrips) {
    range.include(source.read_centred(token, head, channel));
  }
  const std::uint16_t scale_bits = detail::int8_scale(strip_range(range, shared).largest_magnitude());
  if (!has_channel) return;
  const float scale = detail::float16_to_float(scale_bits);
  std::byte* const layer = source.slab_layer();
  if (threadIdx.y == 0) {
    store_as(layer + params.sections.k_scales + (std::int64_t{head} * params.head_dim + channel) * 2, scale_bits);
  }
  for (std::int64_t token = threadIdx.y; token < params.num_tokens; token += kStrips) {
    store_as(layer + params.sections.k_codes + element_index(params, token, head, channel),
             detail::encode_int8(source.read_centred(token, head, channel), scale));
  }
}

/// Grid: x groups of 8 tokens, y heads. A scale for each token and head: a warp's.
__global__ void encode_int8_values(const __grid_constant__ EncodeParams params) {
  const std::int64_t token = std::int64_t{blockIdx.x} * kStrips + threadIdx.y;
  if (token >= params.num_tokens) return;
  const auto head = static_cast<std::int32_t>(blockIdx.y);
  const EncodeSource source(params, /*is_key=*/false);
  Range range;
  for (auto d = static_cast<std::int32_t>(threadIdx.x); d < params.head_dim; d += kLanes) {
    range.include(source.read(token, head, d));
  }
  const std::uint16_t scale_bits = detail::int8_scale(warp_range(range).largest_magnitude());
  const float scale = detail::float16_to_float(scale_bits);
  std::byte* const layer = source.slab_layer();
  if (threadIdx.x == 0) {
    store_as(layer + params.sections.v_scales + (token * params.num_kv_heads + head) * 2, scale_bits);
  }
  for (auto d = static_cast<std::int32_t>(threadIdx.x); d < params.head_dim; d += kLanes) {
    store_as(layer + params.sections.v_codes + element_index(params, token, head, d),
             detail::encode_int8(source.read(token, head, d), scale));
  }
}

/// Grid: x groups of 32 tokens, y heads times groups of 32 channels.
__global__ void encode_int4_keys(const __grid_constant__ EncodeParams params) {
  __shared__ Range shared[kStrips][kLanes];
  const auto channel_groups = static_cast<std::int32_t>((params.head_dim + kLanes - 1) / kLanes);
  const std::int32_t head = static_cast<std::int32_t>(blockIdx.y) / channel_groups;
  const std::int32_t channel =
      static_cast<std::int32_t>(blockIdx.y) % channel_groups * kLanes + static_cast<std::int32_t>(threadIdx.x);
  const bool has_channel = channel < params.head_dim;
  const std::int64_t begin = std::int64_t{blockIdx.x} * kInt4GroupTokens;
  const std::int64_t rest = params.num_tokens - begin;
  const std::int64_t end = begin + (rest < kInt4GroupTokens ? rest : kInt4GroupTokens);
  const EncodeSource source(params, /*is_key=*/true);

  Range range;
  for (std::int64_t token = begin + threadIdx.y; has_channel && token < end; token += kStrips) {
    if (token >= kInt4SinkTokens) range.include(source.read_centred(token, head, channel));
  }
  const detail::Int4Group group = strip_range(range, shared).group();
  const float scale = detail::float16_to_float(group.scale);
  const float minimum = detail::float16_to_float(group.minimum);
  std::byte* const layer = source.slab_layer();
  const std::int64_t row_elements = std::int64_t{params.num_kv_heads} * params.head_dim;
  if (threadIdx.y == 0 && has_channel) {
    const std::int64_t index = blockIdx.x * row_elements + std::int64_t{head} * params.head_dim + channel;
    store_group(layer + params.sections.k_scales + index * 4, group);
  }
  for (std::int64_t token = begin + threadIdx.y; token < end; token += kStrips) {
    std::uint8_t code = 0;
    if (!keep_sink(params, source, params.sections.k_sinks, token, head, channel) && has_channel) {
      code = detail::encode_int4(source.read_centred(token, head, channel), scale, minimum);
    }
    const std::uint8_t both = pack_codes(code);
    if (channel % 2 != 0 || !has_channel) continue;
    const std::int64_t head_bytes = (std::int64_t{params.head_dim} + 1) / 2;
    store_as(layer + params.sections.k_codes + (token * params.num_kv_heads + head) * head_bytes + channel / 2, both);
  }
}

/// Grid: x groups of 8 tokens, y heads times groups of 32 channels. A group is a warp's.
__global__ void encode_int4_values(const __grid_constant__ EncodeParams params) {
  const std::int64_t token = std::int64_t{blockIdx.x} * kStrips + threadIdx.y;
  if (token >= params.num_tokens) return;
  const auto channel_groups = static_cast<std::int32_t>((params.head_dim + kLanes - 1) / kLanes);
  const std::int32_t head = static_cast<std::int32_t>(blockIdx.y) / channel_groups;
  const std::int32_t channel_group = static_cast<std::int32_t>(blockIdx.y) % channel_groups;
  const std::int32_t channel = channel_group * kLanes + static_cast<std::int32_t>(threadIdx.x);
  const bool has_channel = channel < params.head_dim;
  const EncodeSource source(params, /*is_key=*/false);

  const bool is_sink = keep_sink(params, source, params.sections.v_sinks, token, head, channel);
  const float value = has_channel ? source.read(token, head, channel) : 0.0F;
  Range range;
  if (has_channel && !is_sink) range.include(value);
  const detail::Int4Group group = warp_range(range).group();
  std::byte* const layer = source.slab_layer();
  const std::int64_t head_index = token * params.num_kv_heads + head;
  if (threadIdx.x == 0) {
    store_group(layer + params.sections.v_scales + (head_index * channel_groups + channel_group) * 4, group);
  }
  std::uint8_t code = 0;
  if (has_channel && !is_sink) {
    code = detail::encode_int4(value, detail::float16_to_float(group.scale), detail::float16_to_float(group.minimum));
  }
  const std::uint8_t both = pack_codes(code);
  if (channel % 2 != 0 || !has_channel) return;
  store_as(layer + params.sections.v_codes + head_index * ((std::int64_t{params.head_dim} + 1) / 2) + channel / 2,
           both);
}

[[nodiscard]] unsigned groups_of(std::int64_t count, std::int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace

cudaError_t launch_encode(const EncodeParams& params, cudaStream_t stream) {
  const dim3 block(kLanes, kStrips);
  const auto heads = static_cast<unsigned>(params.num_kv_heads);
  const auto layers = static_cast<unsigned>(params.num_layers);
  const unsigned channel_groups = groups_of(params.head_dim, kLanes);
  const unsigned token_strips = groups_of(params.num_tokens, kStrips);
  switch (params.format) {
    case SlabFormat::kPlain:
      return cudaErrorInvalidValue;
    case SlabFormat::kFloat8:
      encode_float8_heads<<<dim3(heads, 2, layers), block, 0, stream>>>(params);
      break;
    case SlabFormat::kInt8:
      encode_int8_keys<<<dim3(heads, channel_groups, layers), block, 0, stream>>>(params);
      encode_int8_values<<<dim3(token_strips, heads, layers), block, 0, stream>>>(params);
      break;
    case SlabFormat::kInt4:
      encode_int4_keys<<<dim3(groups_of(params.num_tokens, kInt4GroupTokens), heads * channel_groups, layers), block, 0,
                         stream>>>(params);
      encode_int4_values<<<dim3(token_strips, heads * channel_groups, layers), block, 0, stream>>>(params);
      break;
  }
  return cudaGetLastError();
}

}  // namespace pikv::kernels
