// Rows of fp32 out of encoded slabs and fp8 caches, and into fp8 caches: the arithmetic of pikv/detail/quantize.hpp, in
// loops over channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/block_move.hpp"
#include "pikv/slab.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// codes, values: [count].
void decode_float8_row(const std::byte* codes, float scale, std::int64_t count, float* values) noexcept;
void encode_float8_row(const float* values, float scale, std::int64_t count, std::byte* codes) noexcept;

/// The scale of a head of an fp8 view.
[[nodiscard]] inline float view_scale(const KvScales& scales, Side side, std::int32_t layer,
                                      std::int32_t head) noexcept {
  const float* const values = side == Side::kKey ? scales.k : scales.v;
  return values == nullptr ? 1.0F : values[layer * scales.layer_stride + head * scales.head_stride];
}

/// Keys or values of one layer of a slab that is not kPlain, decoded.
class SlabRows {
 public:
  /// Elements of scratch that a reader needs.
  [[nodiscard]] static std::int64_t scratch_elements(const KvGeometry& geometry) noexcept {
    return std::int64_t{2} * geometry.num_kv_heads * geometry.head_dim;
  }

  /// scratch: [scratch_elements()], for this reader alone. `geometry` and what `slab` points to outlive it.
  SlabRows(const KvGeometry& geometry, const ConstSlabView& slab, Side side, std::int32_t layer,
           float* scratch) noexcept;

  /// row: [H][D].
  void decode(Slot token, float* row) noexcept;

 private:
  void decode_float8(Slot token, float* row) const noexcept;
  void decode_int8(Slot token, float* row) noexcept;
  void decode_int4(Slot token, float* row) noexcept;
  void load_key_scales(std::int64_t group, bool has_minima) noexcept;

  const KvGeometry& geometry_;
  SlabFormat format_;
  Side side_;
  const std::byte* codes_;
  const std::byte* scales_;
  const std::byte* sinks_;
  const float* bias_;  // [H][D] of the layer, null for values
  float* key_scales_;  // [H][D] of loaded_group_, as fp32
  float* key_minima_;  // [H][D], likewise
  std::int64_t loaded_group_ = -1;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
