// y = x * W^T, the one product a transformer is made of.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_buffer.hpp"
#include "bfloat16.hpp"
#include "thread_pool.hpp"
#include "types.hpp"

namespace mini_engine {

/// A weight matrix W: `rows` outputs by `columns` inputs, row-major without gaps, fp32 or bf16.
class Matrix {
 public:
  Matrix() = default;
  /// Uninitialised. Throws Error when the memory cannot be had.
  Matrix(Precision precision, std::int64_t rows, std::int64_t columns);

  [[nodiscard]] Precision precision() const { return precision_; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t columns() const { return columns_; }

  /// Row `row` of a matrix of the precision that the name says.
  [[nodiscard]] const float* float_row(std::int64_t row) const { return floats_.data() + row * columns_; }
  [[nodiscard]] const BFloat16* bfloat16_row(std::int64_t row) const { return bfloats_.data() + row * columns_; }

  /// Stores `values` [columns] as row `row`, rounded to the matrix's precision. Different rows may be set by different
  /// threads at once.
  void set_row(std::int64_t row, const float* values);
  /// Row `row` in fp32 into `out` [columns].
  void get_row(std::int64_t row, float* out) const;

 private:
  Precision precision_ = Precision::kFloat32;
  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;
  AlignedBuffer<float> floats_;
  AlignedBuffer<BFloat16> bfloats_;
};

/// Some consecutive outputs of a matrix.
struct MatrixRows {
  const Matrix* matrix;
  std::int64_t begin;
  std::int64_t end;

  MatrixRows(const Matrix& all) : matrix(&all), begin(0), end(all.rows()) {}  // NOLINT: a matrix is all its rows
  MatrixRows(const Matrix& of, std::int64_t first, std::int64_t last) : matrix(&of), begin(first), end(last) {}
  [[nodiscard]] std::int64_t size() const { return end - begin; }
};

/// Rows of fp32, `stride` elements apart.
struct InputRows {
  const float* data;
  std::int64_t stride;
};
struct OutputRows {
  float* data;
  std::int64_t stride;
};

enum class Store : std::uint8_t { kReplace, kAdd };

/// Multiplies on the threads of a pool. Owns the scratch in which bf16 weights are widened; one thread at a time.
///
/// Many rows go to OpenBLAS, one single-threaded sgemm per thread over its own share of the outputs: this needs no
/// second set of threads, and lets attention run one sgemm per head at once. A few rows are bound by reading the
/// weights and take the engine's own kernel, which reads bf16 directly. The same call gives the same bits every time.
class MatMul {
 public:
  explicit MatMul(ThreadPool& pool);

  /// y[r] (+)= W x[r] for r < num_rows: x is [num_rows][columns], y is [num_rows][w.size()]; they must not overlap.
  void operator()(InputRows x, std::int64_t num_rows, MatrixRows w, OutputRows y, Store store = Store::kReplace);

 private:
  void few_rows(InputRows x, int num_rows, MatrixRows w, OutputRows y, Store store);
  void many_rows(InputRows x, int num_rows, MatrixRows w, OutputRows y, Store store);

  ThreadPool& pool_;
  std::vector<AlignedBuffer<float>> widened_;  // by thread
};

/// While it lives, OpenBLAS uses one thread in this process: the engine's own threads call it side by side.
class SingleThreadedBlas {
 public:
  SingleThreadedBlas();
  ~SingleThreadedBlas();
  SingleThreadedBlas(const SingleThreadedBlas&) = delete;
  SingleThreadedBlas& operator=(const SingleThreadedBlas&) = delete;

 private:
  int num_threads_before_;
};

}  // namespace mini_engine
