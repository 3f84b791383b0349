// One element at a time, of any kind of source and any type of target, chosen at run time: the path for layouts that
// vectors cannot serve, and for encoding.
#pragma once

#include <cstdint>

#include "params.hpp"
#include "pikv/detail/float8.hpp"
#include "pikv/detail/half.hpp"
#include "pikv/detail/quantize.hpp"

namespace pikv::kernels {

template <class T>
[[nodiscard]] __device__ __forceinline__ T load_as(const std::byte* p) {
  return *reinterpret_cast<const T*>(p);
}
template <class T>
__device__ __forceinline__ void store_as(std::byte* p, T value) {
  *reinterpret_cast<T*>(p) = value;
}

/// An element of one of the types that need no scale.
[[nodiscard]] __device__ __forceinline__ float load_float(const std::byte* p, SourceKind kind) {
  switch (kind) {
    case SourceKind::kFloat32:
      return load_as<float>(p);
    case SourceKind::kFloat16:
      return detail::float16_to_float(load_as<std::uint16_t>(p));
    default:
      return detail::bfloat16_to_float(load_as<std::uint16_t>(p));
  }
}

__device__ __forceinline__ void store_float(std::byte* p, DType type, float value, float scale) {
  switch (type) {
    case DType::kFloat32:
      return store_as(p, value);
    case DType::kFloat16:
      return store_as(p, detail::float_to_float16(value));
    case DType::kBFloat16:
      return store_as(p, detail::float_to_bfloat16(value));
    case DType::kFloat8E4M3:
      return store_as(p, detail::encode_float8(value, scale));
  }
}

[[nodiscard]] __device__ __forceinline__ float half_at(const std::byte* p) {
  return detail::float16_to_float(load_as<std::uint16_t>(p));
}

/// Where an element stands in its source.
struct ElementPlace {
  std::int32_t layer;
  std::int64_t slot;
  std::int32_t head;
  std::int32_t channel;
};

/// The number that an element stands for; of keys with their bias. `head_row`: head 0 .. of the element's token.
[[nodiscard]] __device__ inline float read_element(const Run& run, const Decoding& decoding, bool is_key,
                                                   SourceKind kind, const std::byte* token_row, const Plane& plane,
                                                   const ElementPlace& at, std::int32_t num_heads,
                                                   std::int32_t head_dim) {
  const std::byte* const element = token_row + at.head * plane.head_bytes + at.channel * plane.dim_bytes;
  const std::byte* const scales =
      decoding.scales == nullptr ? nullptr : decoding.scales + at.layer * decoding.layer_bytes;
  const std::int64_t row = std::int64_t{at.head} * head_dim + at.channel;
  const std::int64_t row_elements = std::int64_t{num_heads} * head_dim;
  float value = 0;
  switch (kind) {
    case SourceKind::kFloat32:
    case SourceKind::kFloat16:
    case SourceKind::kBFloat16:
      value = load_float(element, kind);
      break;
    case SourceKind::kFloat8E4M3: {
      const float scale = scales == nullptr ? 1.0F : load_as<float>(scales + at.head * decoding.head_bytes);
      value = detail::decode_float8(load_as<std::uint8_t>(element), scale);
      break;
    }
    case SourceKind::kInt8: {
      const std::int64_t index = is_key ? row : at.slot * num_heads + at.head;
      value = detail::decode_int8(load_as<std::int8_t>(element), half_at(scales + index * 2));
      break;
    }
    case SourceKind::kInt4: {
      if (at.slot < kInt4SinkTokens) {
        const std::byte* const sinks = decoding.sinks + at.layer * decoding.sink_layer_bytes;
        return detail::bfloat16_to_float(load_as<std::uint16_t>(sinks + (at.slot * row_elements + row) * 2));
      }
      const std::int64_t head_groups = (head_dim + kInt4GroupChannels - 1) / kInt4GroupChannels;
      const std::int64_t index = is_key
                                     ? at.slot / kInt4GroupTokens * row_elements + row
                                     : (at.slot * num_heads + at.head) * head_groups + at.channel / kInt4GroupChannels;
      const auto both = load_as<std::uint8_t>(token_row + at.head * plane.head_bytes + at.channel / 2);
      const auto code = static_cast<std::uint8_t>(at.channel % 2 == 0 ? both & 0xFU : both >> 4);
      value = detail::decode_int4(code, half_at(scales + index * 4), half_at(scales + index * 4 + 2));
      break;
    }
  }
  return is_key && run.key_bias != nullptr ? value + run.key_bias[at.layer * row_elements + row] : value;
}

}  // namespace pikv::kernels
