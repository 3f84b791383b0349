// Encodes a validated SlabEncode, head by head: every scale belongs to one head, so that heads need nothing of each
// other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/row_kernels.hpp"
#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Cuts an encoding into tasks of one layer and head. Tasks may run in any order and together, each with a scratch area
/// of its own.
class SlabEncoder {
 public:
  /// Requires: `encode` has been validated, is not kPlain and, like `kernels`, outlives the encoder.
  SlabEncoder(const SlabEncode& encode, const RowKernels& kernels) noexcept;

  [[nodiscard]] std::int64_t num_tasks() const noexcept {
    return std::int64_t{encode_.layer_end - encode_.layer_begin} * encode_.geometry.num_kv_heads;
  }
  /// Bytes that all tasks together write, padding included.
  [[nodiscard]] std::int64_t num_bytes() const noexcept {
    return (encode_.layer_end - encode_.layer_begin) * sections_.layer_bytes;
  }
  /// Bytes of scratch that run() needs for each worker, a multiple of those of a float.
  [[nodiscard]] std::int64_t scratch_bytes() const noexcept;

  /// Does task `task_index` in [0, num_tasks()). scratch: [scratch_bytes()], aligned to floats.
  void run(std::int64_t task_index, std::byte* scratch) const noexcept;

 private:
  const SlabEncode& encode_;
  const RowKernels& kernels_;
  SlabSections sections_;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
