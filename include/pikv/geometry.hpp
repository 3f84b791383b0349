// What a model's KV cache holds (KvGeometry) and how its bytes lie (KvLayout, KvView, SlotMap).
//
// A layout is declared by the engine and never guessed from a tensor's shape. One formula covers the engines pikv
// knows, whether their pages keep heads or tokens outermost, K and V apart or interleaved, or V transposed:
//
//   address(K, layer, slot, head, d) = k_base(layer) + (slot / S) * page + (slot % S) * token + head * head_stride
//                                                    + d * dim                                     (elements)
//
//   const pikv::KvLayout layout = pikv::nhd_pages(geometry, /*page_size=*/16);
//
// All arithmetic is constexpr and callable from host and device code, so address computation beyond 4 GiB is tested
// without allocating anything. Thread-safety: values.
#pragma once

#include <cstdint>
#include <limits>

#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// The shape of a model's keys and values; knows nothing of pages or strides.
struct KvGeometry {
  std::int32_t num_layers = 0;     ///< L
  std::int32_t num_kv_heads = 0;   ///< H
  std::int32_t head_dim = 0;       ///< D, of keys and of values
  std::int32_t rotary_dim = 0;     ///< leading channels that rotate; even, <= head_dim
  DType dtype = DType::kBFloat16;  ///< of stored semantic keys and values

  friend constexpr bool operator==(const KvGeometry&, const KvGeometry&) = default;

  /// K plus V of one token in all layers, in elements and in bytes.
  [[nodiscard]] constexpr std::int64_t elements_per_token() const noexcept {
    return std::int64_t{2} * num_layers * num_kv_heads * head_dim;
  }
  [[nodiscard]] constexpr std::int64_t bytes_per_token() const noexcept {
    return elements_per_token() * dtype_bytes(dtype);
  }
};

/// Refuses sizes that are not positive, an odd or oversized rotary_dim, and products beyond 2^40 bytes a token.
[[nodiscard]] PIKV_API Status validate(const KvGeometry& geometry);

/// Distances between neighbours along each axis, in elements; any of them may be 0 only where its axis has length 1.
struct AxisStrides {
  std::int64_t layer = 0;  ///< ignored by views with a base per layer
  std::int64_t page = 0;
  std::int64_t token = 0;  ///< within a page
  std::int64_t head = 0;
  std::int64_t dim = 1;

  friend constexpr bool operator==(const AxisStrides&, const AxisStrides&) = default;
};

/// How K and V lie in memory, relative to their base addresses.
struct KvLayout {
  DType dtype = DType::kBFloat16;
  std::int32_t page_size = 1;  ///< S, tokens a page; 1 where the engine addresses single tokens
  AxisStrides k;
  AxisStrides v;

  friend constexpr bool operator==(const KvLayout&, const KvLayout&) = default;
};

/// Elements from the layer's base to (slot, head, d). Requires: slot >= 0.
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int64_t element_offset(const AxisStrides& strides, std::int32_t page_size,
                                                                     Slot slot, std::int32_t head,
                                                                     std::int32_t d) noexcept {
  return slot / page_size * strides.page + slot % page_size * strides.token + head * strides.head + d * strides.dim;
}

/// Which slot each token of a run goes to: one entry per token, a page table, or consecutive slots.
/// Does not own its arrays; they live in the memory space of the view it is used with.
class SlotMap {
 public:
  enum class Kind : std::uint8_t { kConsecutive, kPerToken, kPageTable };

  /// Token i at slot `first + i`.
  [[nodiscard]] static constexpr SlotMap consecutive(Slot first, std::int64_t num_tokens) noexcept {
    return SlotMap(Kind::kConsecutive, nullptr, nullptr, first, num_tokens, 1);
  }
  /// slots: [num_tokens], not null unless num_tokens is 0; kSkipSlot leaves a token out.
  [[nodiscard]] static constexpr SlotMap per_token(const Slot* slots, std::int64_t num_tokens) noexcept {
    return SlotMap(Kind::kPerToken, slots, nullptr, 0, num_tokens, 1);
  }
  /// pages: [ceil((first_token + num_tokens) / page_size)], not null unless num_tokens is 0; token i is the
  /// (first_token + i)-th of the pages' concatenation.
  [[nodiscard]] static constexpr SlotMap page_table(const std::int32_t* pages, std::int32_t page_size,
                                                    std::int64_t first_token, std::int64_t num_tokens) noexcept {
    return SlotMap(Kind::kPageTable, nullptr, pages, first_token, num_tokens, page_size);
  }

  [[nodiscard]] PIKV_HOST_DEVICE constexpr Kind kind() const noexcept { return kind_; }
  [[nodiscard]] PIKV_HOST_DEVICE constexpr std::int64_t num_tokens() const noexcept { return num_tokens_; }
  /// The first slot of consecutive ones, the first token of a page table; 0 for one entry per token.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr std::int64_t first() const noexcept { return first_; }
  /// Null unless the kind is kPerToken.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr const Slot* slots() const noexcept { return slots_; }
  /// Null unless the kind is kPageTable.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr const std::int32_t* pages() const noexcept { return pages_; }
  /// Tokens a page of a page table; 1 for the other kinds.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t page_size() const noexcept { return page_size_; }

  /// Requires: 0 <= token < num_tokens().
  [[nodiscard]] PIKV_HOST_DEVICE constexpr Slot slot(std::int64_t token) const noexcept {
    if (kind_ == Kind::kPerToken) return slots_[token];
    const std::int64_t place = first_ + token;
    if (kind_ == Kind::kConsecutive) return place;
    if (place <= INT32_MAX) {  // 32-bit division is several times as fast, on GPUs most
      const auto narrow = static_cast<std::uint32_t>(place);
      const auto size = static_cast<std::uint32_t>(page_size_);
      return pages_[narrow / size] * std::int64_t{page_size_} + narrow % size;
    }
    return pages_[place / page_size_] * std::int64_t{page_size_} + place % page_size_;
  }

  /// The map of tokens [begin, begin + count) of this one.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr SlotMap slice(std::int64_t begin, std::int64_t count) const noexcept {
    if (kind_ == Kind::kPerToken) return SlotMap(kind_, slots_ + begin, nullptr, 0, count, 1);
    return SlotMap(kind_, nullptr, pages_, first_ + begin, count, page_size_);
  }

 private:
  PIKV_HOST_DEVICE constexpr SlotMap(Kind kind, const Slot* slots, const std::int32_t* pages, std::int64_t first,
                                     std::int64_t num_tokens, std::int32_t page_size) noexcept
      : slots_(slots), pages_(pages), first_(first), num_tokens_(num_tokens), page_size_(page_size), kind_(kind) {}

  const Slot* slots_;
  const std::int32_t* pages_;
  std::int64_t first_;
  std::int64_t num_tokens_;
  std::int32_t page_size_;
  Kind kind_;
};

/// What the elements of an fp8 cache are to be multiplied by: value = element * scale, one scale for each layer and
/// head, each layer, or all. Read where the view lies, when the work runs.
struct KvScales {
  const float* k = nullptr;       ///< scale of layer l and head h of keys at [l * layer_stride + h * head_stride];
                                  ///< null: 1
  const float* v = nullptr;       ///< likewise of values
  std::int64_t layer_stride = 0;  ///< in elements; 0: all layers share theirs
  std::int64_t head_stride = 0;   ///< in elements; 0: all heads share theirs

  friend constexpr bool operator==(const KvScales&, const KvScales&) = default;
};

/// A KV cache in memory: a layout and its bases. Owns nothing. `Byte` is std::byte, const for views that only read.
template <class Byte>
struct BasicKvView {
  KvLayout layout;
  Byte* k_base = nullptr;  ///< element (layer 0, slot 0, head 0, 0) of K; null when k_layers is given
  Byte* v_base = nullptr;
  /// [L] one base per layer, for engines that allocate layers apart; else null. The array itself lies in host memory
  /// whatever the space of the view, and is read before a call returns.
  Byte* const* k_layers = nullptr;
  Byte* const* v_layers = nullptr;  ///< [L], likewise
  std::int64_t num_slots = 0;       ///< slots beyond this are refused
  MemorySpace space = MemorySpace::kHost;
  KvScales scales{};  ///< of kFloat8E4M3; not read for other types

  [[nodiscard]] PIKV_HOST_DEVICE constexpr Byte* k_layer(std::int32_t layer) const noexcept {
    return k_layers != nullptr ? k_layers[layer] : k_base + layer * layout.k.layer * dtype_bytes(layout.dtype);
  }
  [[nodiscard]] PIKV_HOST_DEVICE constexpr Byte* v_layer(std::int32_t layer) const noexcept {
    return v_layers != nullptr ? v_layers[layer] : v_base + layer * layout.v.layer * dtype_bytes(layout.dtype);
  }
};
using KvView = BasicKvView<std::byte>;
using ConstKvView = BasicKvView<const std::byte>;

[[nodiscard]] constexpr ConstKvView as_const(const KvView& view) noexcept {
  return ConstKvView{view.layout,   view.k_base,    view.v_base, view.k_layers,
                     view.v_layers, view.num_slots, view.space,  view.scales};
}

/// Refuses a layout whose page size is not positive, whose strides are negative or zero along an axis longer than 1,
/// or whose largest offset for `num_slots` slots overflows 63 bits of bytes; axes that do not nest (each stride must
/// reach past all that the smaller strides cover), because then two elements could share an address; a view without
/// bases or with one that is not a multiple of its element size; and K and V that are laid out alike and share an
/// address.
[[nodiscard]] PIKV_API Status validate(const KvLayout& layout, const KvGeometry& geometry, std::int64_t num_slots);
[[nodiscard]] PIKV_API Status validate(const ConstKvView& view, const KvGeometry& geometry);

// The layouts that engines use. `num_pages` is needed where K of all pages stands before V.
// Layers are taken to lie one after the other; give `k_layers` and `v_layers` where they do not.

/// The store's own slab: [L][2 (K, V)][T][H][D]. One layer of a chunk is one contiguous run of bytes. The base of V is
/// `slab_value_offset` elements behind the base of K.
[[nodiscard]] constexpr std::int64_t slab_value_offset(const KvGeometry& g, std::int64_t num_tokens) noexcept {
  return num_tokens * g.num_kv_heads * g.head_dim;
}
[[nodiscard]] constexpr KvLayout slab_layout(const KvGeometry& g, std::int64_t num_tokens) noexcept {
  const std::int64_t row = std::int64_t{g.num_kv_heads} * g.head_dim;
  const AxisStrides strides{.layer = 2 * num_tokens * row, .page = row, .token = row, .head = g.head_dim, .dim = 1};
  return KvLayout{.dtype = g.dtype, .page_size = 1, .k = strides, .v = strides};
}

/// K and V in buffers of their own, each [L][P][S][H][D] (NHD).
[[nodiscard]] constexpr KvLayout nhd_pages(const KvGeometry& g, std::int32_t page_size,
                                           std::int64_t num_pages) noexcept {
  const std::int64_t row = std::int64_t{g.num_kv_heads} * g.head_dim;
  const AxisStrides strides{
      .layer = num_pages * page_size * row, .page = page_size * row, .token = row, .head = g.head_dim, .dim = 1};
  return KvLayout{.dtype = g.dtype, .page_size = page_size, .k = strides, .v = strides};
}

/// K and V in buffers of their own, each [L][P][H][S][D] (HND).
[[nodiscard]] constexpr KvLayout hnd_pages(const KvGeometry& g, std::int32_t page_size,
                                           std::int64_t num_pages) noexcept {
  KvLayout layout = nhd_pages(g, page_size, num_pages);
  layout.k.token = layout.v.token = g.head_dim;
  layout.k.head = layout.v.head = std::int64_t{page_size} * g.head_dim;
  return layout;
}

/// One buffer [L][P][2 (K, V)][S][H][D]: K and V of a page together. V's base is `page_size*H*D` elements behind K's.
[[nodiscard]] constexpr KvLayout fused_nhd_pages(const KvGeometry& g, std::int32_t page_size,
                                                 std::int64_t num_pages) noexcept {
  KvLayout layout = nhd_pages(g, page_size, num_pages);
  layout.k.layer = layout.v.layer = 2 * layout.k.layer;
  layout.k.page = layout.v.page = 2 * layout.k.page;
  return layout;
}

/// One buffer [L][P][2 (K, V)][H][S][D]. V's base is `page_size*H*D` elements behind K's.
[[nodiscard]] constexpr KvLayout fused_hnd_pages(const KvGeometry& g, std::int32_t page_size,
                                                 std::int64_t num_pages) noexcept {
  KvLayout layout = hnd_pages(g, page_size, num_pages);
  layout.k.layer = layout.v.layer = 2 * layout.k.layer;
  layout.k.page = layout.v.page = 2 * layout.k.page;
  return layout;
}

/// One buffer [L][P][S][H][2D] with K in the first and V in the second half of each row. V's base is D elements behind
/// K's.
[[nodiscard]] constexpr KvLayout packed_nhd_pages(const KvGeometry& g, std::int32_t page_size,
                                                  std::int64_t num_pages) noexcept {
  const std::int64_t row = std::int64_t{2} * g.num_kv_heads * g.head_dim;
  const AxisStrides strides{.layer = num_pages * page_size * row,
                            .page = page_size * row,
                            .token = row,
                            .head = std::int64_t{2} * g.head_dim,
                            .dim = 1};
  return KvLayout{.dtype = g.dtype, .page_size = page_size, .k = strides, .v = strides};
}

/// K as [L][T][H][D] and V transposed as [L][H][D][T], token-addressed.
[[nodiscard]] constexpr KvLayout transposed_value_cells(const KvGeometry& g, std::int64_t num_cells) noexcept {
  KvLayout layout = nhd_pages(g, 1, num_cells);
  layout.v.page = layout.v.token = 1;
  layout.v.dim = num_cells;
  layout.v.head = g.head_dim * num_cells;
  return layout;
}

}  // namespace v0
}  // namespace pikv
