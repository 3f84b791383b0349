#include "cpu/drift_weights.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/column_tiles.hpp"
#include "cpu/head_reader.hpp"
#include "cpu/row_block.hpp"
#include "row_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

using HeadRows = std::array<float, static_cast<std::size_t>(RowBlock::kMaxRows) * detail::kMaxHeadDim>;

/// The inverse of a symmetric positive definite matrix [n][n], of which the lower half is read; all of it is written.
void invert(std::vector<double>& matrix, std::size_t n) {
  const auto row = [&](std::size_t i) { return matrix.data() + i * n; };
  const auto product = [](const double* a, const double* b, std::size_t count) {
    double sum = 0;
    for (std::size_t k = 0; k < count; ++k) sum += a[k] * b[k];
    return sum;
  };
  // Cholesky: matrix = L L^T.
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < i; ++j) row(i)[j] = (row(i)[j] - product(row(i), row(j), j)) / row(j)[j];
    row(i)[i] = std::sqrt(row(i)[i] - product(row(i), row(i), i));
  }
  // Column c of L^-1 goes into row c of the upper half, its diagonal apart: both factors of a product are adjacent.
  std::vector<double> column(n);
  for (std::size_t c = 0; c < n; ++c) {
    for (std::size_t i = c; i < n; ++i) {
      const double sum = i == c ? 1 : -product(row(i) + c, column.data() + c, i - c);
      column[i] = sum / row(i)[i];
    }
    for (std::size_t i = c + 1; i < n; ++i) row(c)[i] = column[i];
  }
  std::vector<double> diagonal(n);
  for (std::size_t i = 0; i < n; ++i) diagonal[i] = 1 / row(i)[i];
  // matrix^-1 = L^-T L^-1: element (i, j), j <= i, is the product of columns i and j of L^-1 from i on.
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      const double first = i == j ? diagonal[i] : row(j)[i];
      column[j] = diagonal[i] * first + product(row(i) + i + 1, row(j) + i + 1, n - i - 1);
    }
    for (std::size_t j = 0; j <= i; ++j) row(i)[j] = column[j];
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i + 1; j < n; ++j) row(i)[j] = row(j)[i];
  }
}

class Call {
 public:
  Call(const DriftWeighing& weighing, const RowKernels& kernels, ThreadPool& pool)
      : weighing_(weighing),
        kernels_(kernels),
        pool_(pool),
        head_dim_(weighing.geometry.head_dim),
        num_channels_(2 * std::int64_t{weighing.geometry.num_kv_heads} * head_dim_),
        num_samples_(static_cast<std::int64_t>(weighing.sample_rows.size())),
        samples_(static_cast<std::size_t>(num_samples_ * num_channels_)),
        sample_squares_(static_cast<std::size_t>(num_samples_)),
        means_(static_cast<std::size_t>(num_channels_)),
        factors_(static_cast<std::size_t>(num_channels_)),
        sample_tiles_(num_channels_, num_samples_),
        inverse_tiles_(num_samples_, num_samples_) {}

  void run() {
    const std::int64_t num_sample_blocks = RowBlock::num_blocks(num_samples_);
    const auto num_targets = static_cast<std::int64_t>(weighing_.target_rows.size());
    std::vector<double> covariance(static_cast<std::size_t>(num_samples_ * num_samples_));
    worker_floats_ = RowBlock::kMaxRows * (num_channels_ + 2 * sample_tiles_.padded_columns());
    scratch_.resize(static_cast<std::size_t>(pool_.num_workers() * worker_floats_));

    pool_.parallel_for(num_sample_blocks, [&](std::int64_t block, std::int32_t /*worker*/) {
      read(RowBlock(weighing_.row_slots, weighing_.sample_rows, block), sample(block * RowBlock::kMaxRows));
    });
    find_factors();
    for (std::int64_t i = 0; i < num_samples_; ++i) {
      sample_squares_[static_cast<std::size_t>(i)] = standardize(sample(i));
      for (std::int64_t c = 0; c < num_channels_; ++c) sample_tiles_.at(c, i) = sample(i)[c];
    }
    pool_.parallel_for(num_sample_blocks, [&](std::int64_t block, std::int32_t worker) {
      const std::int64_t begin = block * RowBlock::kMaxRows;
      const std::int64_t count = RowBlock::count_of(num_samples_, block);
      const float* const rows = covariances(sample(begin), sample_squares_.data() + begin,
                                            weighing_.sample_chunks.data() + begin, count, worker);
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t j = 0; j < num_samples_; ++j) {
          const double noise = j == begin + i ? double{weighing_.noise} : 0;
          covariance[static_cast<std::size_t>((begin + i) * num_samples_ + j)] =
              noise + double{rows[i * num_samples_ + j]};
        }
      }
    });
    invert(covariance, static_cast<std::size_t>(num_samples_));
    float* left_out = weighing_.weights.data() + num_targets * num_samples_;
    for (std::int64_t i = 0; i < num_samples_; ++i) {
      const double* const row = covariance.data() + i * num_samples_;
      for (std::int64_t j = 0; j < num_samples_; ++j) {
        inverse_tiles_.at(i, j) = static_cast<float>(row[j]);
        *left_out++ = i == j ? 0.0F : static_cast<float>(-row[j] / row[i]);
      }
    }
    pool_.parallel_for(RowBlock::num_blocks(num_targets),
                       [&](std::int64_t block, std::int32_t worker) { weigh_targets(block, worker); });
  }

 private:
  [[nodiscard]] float* sample(std::int64_t index) noexcept { return samples_.data() + index * num_channels_; }

  /// features: [count][F], semantic keys and values.
  void read(const RowBlock& block, float* features) const noexcept {
    HeadRows rows;
    HeadRows scratch;
    const HeadReader reader(block.source(weighing_.cached, weighing_.rope, head_dim_), kernels_, scratch.data());
    std::int64_t first_channel = 0;
    for (const Side side : {Side::kKey, Side::kValue}) {
      for (std::int32_t head = 0; head < weighing_.geometry.num_kv_heads; ++head) {
        reader.read(side, weighing_.layer, head, 0, block.count, rows.data());
        for (std::int64_t i = 0; i < block.count; ++i) {
          std::copy_n(rows.data() + i * head_dim_, head_dim_, features + i * num_channels_ + first_channel);
        }
        first_channel += head_dim_;
      }
    }
  }

  /// Over the samples, of each channel: its mean, and what makes it comparable with the others.
  void find_factors() noexcept {
    const auto count = static_cast<double>(num_samples_);
    for (std::int64_t c = 0; c < num_channels_; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < num_samples_; ++i) sum += double{sample(i)[c]};
      const double mean = sum / count;
      double squares = 0;
      for (std::int64_t i = 0; i < num_samples_; ++i) squares += std::pow(double{sample(i)[c]} - mean, 2);
      const auto at = static_cast<std::size_t>(c);
      means_[at] = static_cast<float>(mean);
      factors_[at] = squares > 0 ? static_cast<float>(std::sqrt(count / squares)) : 0.0F;
    }
  }

  /// In place; returns the sum of squares.
  [[nodiscard]] float standardize(float* features) const noexcept {
    double squares = 0;
    for (std::int64_t c = 0; c < num_channels_; ++c) {
      const auto at = static_cast<std::size_t>(c);
      features[c] = (features[c] - means_[at]) * factors_[at];
      squares += double{features[c]} * features[c];
    }
    return static_cast<float>(squares);
  }

  /// Of standardised rows with all samples, [count][R] in the worker's scratch.
  [[nodiscard]] const float* covariances(const float* features, const float* squares, const std::int32_t* chunks,
                                         std::int64_t count, std::int32_t worker) noexcept {
    const std::int64_t stride = sample_tiles_.padded_columns();
    float* const products = products_of(worker);
    sample_tiles_.multiply(kernels_.scores, features, count, products);
    float* out = products + RowBlock::kMaxRows * stride;
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t j = 0; j < num_samples_; ++j) {
        const float distance = squares[i] + sample_squares_[static_cast<std::size_t>(j)] - 2 * products[i * stride + j];
        const bool is_same = chunks[i] == weighing_.sample_chunks[static_cast<std::size_t>(j)];
        *out++ = (is_same ? 1.0F : weighing_.other_chunks) *
                 std::exp(-std::max(distance, 0.0F) / static_cast<float>(num_channels_));
      }
    }
    return products + RowBlock::kMaxRows * stride;
  }

  void weigh_targets(std::int64_t index, std::int32_t worker) noexcept {
    const RowBlock block(weighing_.row_slots, weighing_.target_rows, index);
    float* const features = scratch_.data() + worker * worker_floats_;
    std::array<float, static_cast<std::size_t>(RowBlock::kMaxRows)> squares;
    read(block, features);
    for (std::int64_t i = 0; i < block.count; ++i) {
      squares[static_cast<std::size_t>(i)] = standardize(features + i * num_channels_);
    }
    const float* const rows = covariances(
        features, squares.data(), weighing_.target_chunks.data() + index * RowBlock::kMaxRows, block.count, worker);
    float* const products = products_of(worker);
    inverse_tiles_.multiply(kernels_.scores, rows, block.count, products);
    for (std::int64_t i = 0; i < block.count; ++i) {
      std::copy_n(products + i * inverse_tiles_.padded_columns(), num_samples_,
                  weighing_.weights.data() + (index * RowBlock::kMaxRows + i) * num_samples_);
    }
  }

  [[nodiscard]] float* products_of(std::int32_t worker) noexcept {
    return scratch_.data() + worker * worker_floats_ + RowBlock::kMaxRows * num_channels_;
  }

  const DriftWeighing& weighing_;
  const RowKernels& kernels_;
  ThreadPool& pool_;
  std::int32_t head_dim_;
  std::int64_t num_channels_;
  std::int64_t num_samples_;
  std::vector<float> samples_;          // [R][F], standardised once factors are known
  std::vector<float> sample_squares_;   // [R]
  std::vector<float> means_, factors_;  // [F]
  ColumnTiles sample_tiles_;            // [F][R]
  ColumnTiles inverse_tiles_;           // [R][R], of the samples' covariance with noise
  std::int64_t worker_floats_ = 0;
  std::vector<float> scratch_;  // of each worker: features [F], products and covariances [padded R] of a block
};

}  // namespace

void find_drift_weights(const DriftWeighing& weighing, const RowKernels& kernels, ThreadPool& pool) {
  Call(weighing, kernels, pool).run();
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
