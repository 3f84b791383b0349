// Reads a model's tensors as an engine wants its weights: shapes checked, query and key rows in half-split order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "model_file.hpp"
#include "types.hpp"
#include "weight_layout.hpp"

namespace mini_engine {

/// Told, one call at a time but from any thread, how much of a model has been loaded.
using LoadProgress = std::function<void(std::int64_t num_bytes, std::int64_t num_bytes_in_all)>;

/// The rows of a matrix in a file, which must outlive it. May be read by several threads.
class TensorRows {
 public:
  /// Throws Error unless the tensor has `num_rows` rows of `num_columns`.
  TensorRows(const ModelFile& file, TensorName name, std::int64_t num_rows, std::int64_t num_columns);

  [[nodiscard]] std::int64_t num_rows() const { return view_.rows; }
  [[nodiscard]] std::int64_t num_columns() const { return view_.columns; }
  /// Row `row`, decoded. `out` has num_columns() elements.
  void read(std::int64_t row, std::span<float> out) const;
  /// Row `row` in `precision`, num_columns() elements of it, into `out`; what is stored so already is copied.
  /// `decoded` has num_columns() elements and is overwritten.
  void read(std::int64_t row, Precision precision, std::span<float> decoded, std::byte* out) const;
  /// Begins to bring rows [begin, begin + count) into memory, where the file is mapped and the system listens.
  void prefetch(std::int64_t begin, std::int64_t count) const noexcept;

 private:
  [[nodiscard]] std::int64_t stored_row(std::int64_t row) const;

  TensorView view_;
  std::int64_t interleaved_head_dim_ = 0;  // 0: rows are in order
};

/// A vector of `out.size()` elements. Throws Error when the tensor has another shape.
void read_vector(const ModelFile& file, TensorName name, std::span<float> out);

}  // namespace mini_engine
