// One layer of a forward pass as an engine leaves it: rows of a fused projection, of which K and V are slices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/kv_world.hpp"

namespace test_support {

/// [T][padding, K (H*D), V (H*D), padding] of `dtype`; a slot is a row of the pass. What is not K or V is NaN.
class Projection {
 public:
  Projection(const pikv::KvGeometry& geometry, pikv::DType dtype, std::int64_t num_rows)
      : geometry_(geometry), dtype_(dtype), num_rows_(num_rows) {
    bytes_.assign(static_cast<std::size_t>(num_rows * row_elements() * pikv::dtype_bytes(dtype)), std::byte{0xFF});
  }

  /// Writes the row's K and V of `layer`, as the chunk `key` has them for its `token`-th token.
  void fill(std::int64_t row, std::int32_t layer, const pikv::ChunkKey& key, std::int64_t token) {
    const pikv::KvView target = view_over(bytes_.data());
    for_each_element(geometry_, layer, layer + 1, [&](const Element& element) {
      const Element in_pass{0, element.side, element.head, element.dim};
      write_bits(target, row, in_pass, encode(dtype_, semantic_value(key, token, element)));
    });
  }

  [[nodiscard]] pikv::ConstKvView view() { return pikv::as_const(view_over(bytes_.data())); }

 private:
  static constexpr std::int64_t kPadding = 5;
  [[nodiscard]] std::int64_t side_elements() const { return std::int64_t{geometry_.num_kv_heads} * geometry_.head_dim; }
  [[nodiscard]] std::int64_t row_elements() const { return 2 * side_elements() + 2 * kPadding; }
  [[nodiscard]] pikv::KvView view_over(std::byte* base) const {
    const pikv::AxisStrides strides{
        .layer = 0, .page = row_elements(), .token = row_elements(), .head = geometry_.head_dim, .dim = 1};
    const std::int64_t element_bytes = pikv::dtype_bytes(dtype_);
    return pikv::KvView{.layout = {.dtype = dtype_, .page_size = 1, .k = strides, .v = strides},
                        .k_base = base + kPadding * element_bytes,
                        .v_base = base + (kPadding + side_elements()) * element_bytes,
                        .num_slots = num_rows_};
  }

  pikv::KvGeometry geometry_;
  pikv::DType dtype_;
  std::int64_t num_rows_;
  std::vector<std::byte> bytes_;
};

}  // namespace test_support
