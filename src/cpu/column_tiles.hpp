// The right side of a matrix product, in the tiles that ScoreKernels::multiply() takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/score_kernels.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// [rows][columns] floats, zeros at first. Throws std::bad_alloc.
class ColumnTiles {
 public:
  ColumnTiles(std::int64_t num_rows, std::int64_t num_columns)
      : num_rows_(num_rows),
        num_tiles_((num_columns + kTileKeys - 1) / kTileKeys),
        elements_(static_cast<std::size_t>(num_tiles_ * num_rows * kTileKeys)) {}

  /// Columns, and those that fill the last tile.
  [[nodiscard]] std::int64_t padded_columns() const noexcept { return num_tiles_ * kTileKeys; }
  [[nodiscard]] float& at(std::int64_t row, std::int64_t column) noexcept { return elements_[index_of(row, column)]; }
  [[nodiscard]] float at(std::int64_t row, std::int64_t column) const noexcept {
    return elements_[index_of(row, column)];
  }

  /// out = left * this. left: [count][rows]; out: [count][padded_columns()]. May be called from several threads.
  void multiply(const ScoreKernels& kernels, const float* left, std::int64_t count, float* out) const noexcept {
    for (std::int64_t tile = 0; tile < num_tiles_; ++tile) {
      kernels.multiply({.queries = left,
                        .keys = elements_.data() + tile * num_rows_ * kTileKeys,
                        .products = out + tile * kTileKeys,
                        .num_queries = count,
                        .head_dim = num_rows_,
                        .product_stride = padded_columns()});
    }
  }

 private:
  [[nodiscard]] std::size_t index_of(std::int64_t row, std::int64_t column) const noexcept {
    return static_cast<std::size_t>((column / kTileKeys * num_rows_ + row) * kTileKeys + column % kTileKeys);
  }

  std::int64_t num_rows_;
  std::int64_t num_tiles_;
  std::vector<float> elements_;  // [tiles][rows][kTileKeys]
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
