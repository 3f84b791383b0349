// How a chunk's keys and values are stored: as they are, or in fewer bits (SlabFormat), and where each part of a slab
// lies (SlabSections).
//
// Keys are stored before RoPE, where a channel that is large for one token is large for all: keys therefore share a
// scale along tokens, values along channels. Every format keeps one layer of one chunk contiguous, so that it is one
// transfer.
//
//   const pikv::SlabSections sections = pikv::slab_sections(geometry, pikv::SlabFormat::kInt8, num_tokens);
//   pikv::Buffer::allocate(sections.slab_bytes(geometry.num_layers), memory, stream);
//
// | format | keys | values | bytes for 256 tokens, against bf16 |
// | --- | --- | --- | --- |
// | kPlain | geometry.dtype | geometry.dtype | 1 |
// | kFloat8 | e4m3, an fp32 scale for each layer and head | the same | 0.500 |
// | kInt8 | int8, an fp16 scale for each channel | int8, an fp16 scale for each token and head | 0.506 |
// | kInt4 | 4 bits, fp16 scale and minimum for each channel and 32 tokens | the same for each token and 32 channels;
//   the first 4 tokens, which attention leans on most, bf16 in both | 0.328 |
//
// A model whose key projection has a bias gives it to the encoder (SlabEncoding::key_bias): it is subtracted before
// encoding and added again before keys turn, which keeps a large constant from eating the few bits there are.
//
// docs/formats.md has the byte tables. Thread-safety: values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pikv/geometry.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

enum class SlabFormat : std::uint8_t { kPlain = 0, kFloat8 = 1, kInt8 = 2, kInt4 = 3 };

[[nodiscard]] constexpr const char* slab_format_name(SlabFormat format) noexcept {
  switch (format) {
    case SlabFormat::kPlain:
      return "plain";
    case SlabFormat::kFloat8:
      return "fp8";
    case SlabFormat::kInt8:
      return "int8";
    case SlabFormat::kInt4:
      return "int4";
  }
  return "unknown";
}

/// A format and what a model adds to it.
struct SlabEncoding {
  SlabFormat format = SlabFormat::kPlain;
  /// [L][H][D] fp32 in the backend's memory space, alive as long as anything encoded with it; null: none. Not used by
  /// kPlain.
  const float* key_bias = nullptr;

  friend constexpr bool operator==(const SlabEncoding&, const SlabEncoding&) = default;
};

inline constexpr std::int64_t kInt4GroupTokens = 32;    ///< of keys
inline constexpr std::int64_t kInt4GroupChannels = 32;  ///< of values
inline constexpr std::int64_t kInt4SinkTokens = 4;      ///< kept in bf16
inline constexpr std::int64_t kSlabAlignment = 64;      ///< of every section of an encoded layer, in bytes

/// Where the parts of one layer lie, in bytes from the layer's start. Absent parts have the offset of what follows.
struct SlabSections {
  std::int64_t k_codes = 0;   ///< [T][H][D] elements; kInt4: [T][H][ceil(D/2)] bytes, channel 2i in the low half
  std::int64_t v_codes = 0;   ///< likewise
  std::int64_t k_scales = 0;  ///< kFloat8: [H] fp32; kInt8: [H][D] fp16; kInt4: [ceil(T/32)][H][D] {scale, min} fp16
  std::int64_t v_scales = 0;  ///< kFloat8: [H] fp32; kInt8: [T][H] fp16; kInt4: [T][H][ceil(D/32)] {scale, min} fp16
  std::int64_t k_sinks = 0;   ///< kInt4: [min(4, T)][H][D] bf16, without bias subtracted; codes of these tokens are 0
  std::int64_t v_sinks = 0;   ///< likewise
  std::int64_t layer_bytes = 0;

  [[nodiscard]] constexpr std::int64_t slab_bytes(std::int32_t num_layers) const noexcept {
    return num_layers * layer_bytes;
  }
};

[[nodiscard]] PIKV_HOST_DEVICE constexpr SlabSections slab_sections(const KvGeometry& g, SlabFormat format,
                                                                    std::int64_t num_tokens) noexcept {
  const std::int64_t row = std::int64_t{g.num_kv_heads} * g.head_dim;
  std::int64_t k_codes = num_tokens * row * dtype_bytes(g.dtype);
  std::int64_t k_scales = 0;
  std::int64_t v_scales = 0;
  std::int64_t sinks = 0;
  switch (format) {
    case SlabFormat::kPlain:
      break;
    case SlabFormat::kFloat8:
      k_codes = num_tokens * row;
      k_scales = v_scales = std::int64_t{g.num_kv_heads} * 4;
      break;
    case SlabFormat::kInt8:
      k_codes = num_tokens * row;
      k_scales = row * 2;
      v_scales = num_tokens * g.num_kv_heads * 2;
      break;
    case SlabFormat::kInt4: {
      const std::int64_t token_groups = (num_tokens + kInt4GroupTokens - 1) / kInt4GroupTokens;
      const std::int64_t channel_groups = (g.head_dim + kInt4GroupChannels - 1) / kInt4GroupChannels;
      k_codes = num_tokens * g.num_kv_heads * ((std::int64_t{g.head_dim} + 1) / 2);
      k_scales = token_groups * row * 4;
      v_scales = num_tokens * g.num_kv_heads * channel_groups * 4;
      sinks = (num_tokens < kInt4SinkTokens ? num_tokens : kInt4SinkTokens) * row * 2;
      break;
    }
  }
  // Plain slabs are dense, so that they are views; the others start every section on a boundary.
  const std::int64_t alignment = format == SlabFormat::kPlain ? 1 : kSlabAlignment;
  SlabSections sections;
  std::int64_t end = 0;
  const auto place = [&end, alignment](std::int64_t bytes) {
    const std::int64_t begin = end;
    end += (bytes + alignment - 1) / alignment * alignment;
    return begin;
  };
  sections.k_codes = place(k_codes);
  sections.v_codes = place(k_codes);
  sections.k_scales = place(k_scales);
  sections.v_scales = place(v_scales);
  sections.k_sinks = place(sinks);
  sections.v_sinks = place(sinks);
  sections.layer_bytes = end;
  return sections;
}

/// A chunk's slab in memory. Owns nothing. `Byte` is std::byte, const for slabs that are only read.
template <class Byte>
struct BasicSlabView {
  Byte* data = nullptr;  ///< [L] layers of slab_sections(geometry, format, num_tokens).layer_bytes; 64-byte aligned
  std::int64_t num_tokens = 0;  ///< T; slot i of the slab is token i
  SlabEncoding encoding{};
  MemorySpace space = MemorySpace::kHost;
};
using SlabView = BasicSlabView<std::byte>;
using ConstSlabView = BasicSlabView<const std::byte>;

[[nodiscard]] constexpr ConstSlabView as_const(const SlabView& slab) noexcept {
  return ConstSlabView{slab.data, slab.num_tokens, slab.encoding, slab.space};
}

/// A kPlain slab as a view whose slots are its tokens. Requires: slab.encoding.format is kPlain.
template <class Byte>
[[nodiscard]] constexpr BasicKvView<Byte> plain_view(const KvGeometry& geometry,
                                                     const BasicSlabView<Byte>& slab) noexcept {
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  return BasicKvView<Byte>{
      .layout = slab_layout(geometry, slab.num_tokens),
      .k_base = slab.data,
      .v_base = slab.data + slab.num_tokens * row * dtype_bytes(geometry.dtype),
      .num_slots = slab.num_tokens,
      .space = slab.space,
  };
}

/// A slab's layers from `layer` on, as a slab for geometries that have only these, or fewer.
template <class Byte>
[[nodiscard]] constexpr BasicSlabView<Byte> slab_layer(const KvGeometry& geometry, BasicSlabView<Byte> slab,
                                                       std::int32_t layer) noexcept {
  slab.data += layer * slab_sections(geometry, slab.encoding.format, slab.num_tokens).layer_bytes;
  if (slab.encoding.key_bias != nullptr) {
    slab.encoding.key_bias += std::int64_t{layer} * geometry.num_kv_heads * geometry.head_dim;
  }
  return slab;
}

/// Refuses a slab without memory or tokens, one that is not aligned (kPlain: to its elements, else to 64 bytes), an
/// unknown format, and one whose size overflows 63 bits.
[[nodiscard]] PIKV_API Status validate(const ConstSlabView& slab, const KvGeometry& geometry);

}  // namespace v0
}  // namespace pikv
