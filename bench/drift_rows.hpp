// Which rows the benchmarks of drift take for samples. Shared by the CPU and CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pikv/drift.hpp"

namespace pikv_bench {

/// A tenth of the rows are samples, but no more than there may be; all others are targets.
struct DriftRows {
  std::vector<std::int32_t> samples;
  std::vector<std::int32_t> targets;
  std::vector<std::int32_t> sample_chunks;  // of 128 rows
  std::vector<std::int32_t> target_chunks;

  explicit DriftRows(std::int32_t num_rows) {
    const std::int32_t step = std::max(10, (num_rows + pikv::kMaxDriftSamples - 1) / pikv::kMaxDriftSamples);
    for (std::int32_t row = 0; row < num_rows; ++row) {
      (row % step == 0 ? samples : targets).push_back(row);
      (row % step == 0 ? sample_chunks : target_chunks).push_back(row / 128);
    }
  }
  [[nodiscard]] std::size_t num_weights() const { return (targets.size() + samples.size()) * samples.size(); }
};

}  // namespace pikv_bench
