// From a model's file into device memory at the disk's rate: several threads each read a piece of the mapped file into
// page-locked memory, in the precision that is wanted, while the piece before it is on its way over the bus.
#pragma once

#include <cstdint>
#include <vector>

#include "linear.hpp"
#include "mini_engine/thread_pool.hpp"
#include "mini_engine/weight_reader.hpp"

namespace mini_engine::gpu {

/// First everything that is to be read is named, then run() reads it. The file and the targets must outlive that.
class WeightUpload {
 public:
  WeightUpload(const ModelFile& file, Precision precision) : file_(file), precision_(precision) {}

  /// A norm, `size` elements in fp32. Throws Error for a tensor of another shape.
  void vector(const float* target, std::int64_t size, TensorName name);
  /// Rows [first_row, first_row + num_rows) of `target`, which is in the upload's precision. Throws Error likewise.
  void matrix(const DeviceMatrix& target, std::int64_t first_row, std::int64_t num_rows, TensorName name);

  /// Reads and copies on the pool's threads; everything has arrived when it returns. `progress` may be empty. Throws
  /// Error when page-locked memory is short or a copy fails.
  void run(ThreadPool& pool, const LoadProgress& progress) const;

 private:
  struct Vector {
    float* target;
    std::vector<float> values;
  };
  struct Rows {
    std::byte* target;
    TensorRows source;
  };

  const ModelFile& file_;
  Precision precision_;
  std::vector<Vector> vectors_;
  std::vector<Rows> matrices_;
};

}  // namespace mini_engine::gpu
