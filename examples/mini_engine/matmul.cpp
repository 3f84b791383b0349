#include "matmul.hpp"

#include <cblas.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "error.hpp"
#include "simd/kernels.hpp"

namespace mini_engine {
namespace {

// Up to here reading the weights takes longer than multiplying; beyond, packing them for sgemm pays.
constexpr std::int64_t kMostFewRows = 8;
// Outputs go to threads in multiples of this, the width of sgemm's inner tile or a multiple of it.
constexpr std::int64_t kOutputStep = 64;
// Widened weights of one sgemm call: fits the shared cache, and is large enough to make packing x cheap.
constexpr std::int64_t kMostWidenedElements = std::int64_t{1} << 21;
// Shares of a small product: more than threads, so that a thread that starts late does not hold up the rest.
constexpr std::int64_t kSharesPerThread = 4;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

int to_blas(std::int64_t value) {
  if (value > std::numeric_limits<int>::max()) {
    throw Error("matrix product: " + std::to_string(value) + " does not fit OpenBLAS' 32-bit sizes");
  }
  return static_cast<int>(value);
}

}  // namespace

Matrix::Matrix(Precision precision, std::int64_t rows, std::int64_t columns)
    : precision_(precision), rows_(rows), columns_(columns) {
  std::int64_t size = 0;
  if (rows < 0 || columns < 0 || __builtin_mul_overflow(rows, columns, &size)) {
    throw Error("a matrix of " + std::to_string(rows) + " by " + std::to_string(columns) + " is too large");
  }
  if (precision == Precision::kFloat32) {
    floats_.grow(size);
  } else {
    bfloats_.grow(size);
  }
}

void Matrix::set_row(std::int64_t row, const float* values) {
  if (precision_ == Precision::kFloat32) {
    std::memcpy(floats_.data() + row * columns_, values, static_cast<std::size_t>(columns_) * sizeof(float));
  } else {
    simd::kernels().round_bf16(values, bfloats_.data() + row * columns_, columns_);
  }
}

void Matrix::get_row(std::int64_t row, float* out) const {
  if (precision_ == Precision::kFloat32) {
    std::memcpy(out, float_row(row), static_cast<std::size_t>(columns_) * sizeof(float));
  } else {
    simd::kernels().expand_bf16(bfloat16_row(row), out, columns_);
  }
}

MatMul::MatMul(ThreadPool& pool) : pool_(pool), widened_(static_cast<std::size_t>(pool.num_threads())) {}

void MatMul::operator()(InputRows x, std::int64_t num_rows, MatrixRows w, OutputRows y, Store store) {
  if (num_rows == 0 || w.size() == 0) return;
  if (num_rows <= kMostFewRows) {
    few_rows(x, static_cast<int>(num_rows), w, y, store);
  } else {
    many_rows(x, to_blas(num_rows), w, y, store);
  }
}

void MatMul::few_rows(InputRows x, int num_rows, MatrixRows w, OutputRows y, Store store) {
  const int size = to_blas(w.matrix->columns());
  const std::int64_t num_shares = std::min(pool_.num_threads() * kSharesPerThread, divide_up(w.size(), kOutputStep));
  const std::int64_t share = divide_up(divide_up(w.size(), num_shares), 4) * 4;
  const simd::Kernels& kernels = simd::kernels();
  pool_.run(to_blas(divide_up(w.size(), share)), [&](int task, int) {
    const std::int64_t first = task * share;
    const int num_outputs = to_blas(std::min(share, w.size() - first));
    const auto dot = [&](auto kernel, auto* weights) {
      kernel({weights, size, num_outputs, size, x.data, x.stride, num_rows, y.data + first, y.stride,
              store == Store::kAdd});
    };
    if (w.matrix->precision() == Precision::kFloat32) {
      dot(kernels.dot_f32, w.matrix->float_row(w.begin + first));
    } else {
      dot(kernels.dot_bf16, w.matrix->bfloat16_row(w.begin + first));
    }
  });
}

void MatMul::many_rows(InputRows x, int num_rows, MatrixRows w, OutputRows y, Store store) {
  const std::int64_t columns = w.matrix->columns();
  const bool widens = w.matrix->precision() == Precision::kBFloat16;
  std::int64_t share = divide_up(w.size(), pool_.num_threads());
  if (widens) share = divide_up(share, divide_up(share * columns, kMostWidenedElements));
  share = divide_up(share, kOutputStep) * kOutputStep;
  pool_.run(to_blas(divide_up(w.size(), share)), [&](int task, int thread) {
    const std::int64_t first = task * share;
    const std::int64_t num_outputs = std::min(share, w.size() - first);
    const float* weights = nullptr;
    if (widens) {
      float* widened = widened_[static_cast<std::size_t>(thread)].grow(share * columns);
      simd::kernels().expand_bf16(w.matrix->bfloat16_row(w.begin + first), widened, num_outputs * columns);
      weights = widened;
    } else {
      weights = w.matrix->float_row(w.begin + first);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, num_rows, to_blas(num_outputs), to_blas(columns), 1.0F, x.data,
                to_blas(x.stride), weights, to_blas(columns), store == Store::kAdd ? 1.0F : 0.0F, y.data + first,
                to_blas(y.stride));
  });
}

SingleThreadedBlas::SingleThreadedBlas() : num_threads_before_(openblas_get_num_threads()) {
  if (num_threads_before_ != 1) openblas_set_num_threads(1);
}

SingleThreadedBlas::~SingleThreadedBlas() {
  if (num_threads_before_ != 1) openblas_set_num_threads(num_threads_before_);
}

}  // namespace mini_engine
