// Moves blocks of tokens of a validated KvTransfer through the row kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/block_move.hpp"
#include "cpu/row_kernels.hpp"
#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Cuts a transfer into tasks of one layer and at most kBlockTokens tokens of one run. Tasks may run in any order and
/// together, each with a scratch area of its own.
class Mover {
 public:
  /// Requires: `transfer` has been validated and, like `kernels`, outlives the mover.
  /// Transfers that write at least `stream_from_bytes` bypass the cache on stores where alignment allows.
  Mover(const KvTransfer& transfer, Direction direction, const RowKernels& kernels, std::int64_t stream_from_bytes);

  [[nodiscard]] std::int64_t num_tasks() const noexcept { return num_tasks_; }
  /// Bytes that the whole transfer writes.
  [[nodiscard]] std::int64_t num_bytes() const noexcept { return num_bytes_; }
  /// Bytes of scratch that run() needs for each worker, a multiple of those of a float; 0 when nothing is decoded or
  /// encoded and every channel axis is contiguous.
  [[nodiscard]] std::int64_t scratch_bytes() const noexcept { return scratch_bytes_; }

  /// Does task `task_index` in [0, num_tasks()). scratch: [scratch_bytes()], aligned to floats, null when that is 0.
  void run(std::int64_t task_index, std::byte* scratch) const noexcept;

 private:
  void move_directly(const ConstKvView& source, std::int32_t layer, const TokenBlock& block,
                     std::byte* scratch) const noexcept;
  void move_by_stages(const KvRun& run, std::int32_t layer, const TokenBlock& block, std::byte* scratch) const noexcept;

  const KvTransfer& transfer_;
  const RowKernels& kernels_;
  Direction direction_;
  Stores stores_ = Stores::kCached;
  std::int64_t scratch_bytes_ = 0;
  std::vector<std::int64_t> block_ends_;  // [runs] blocks of one layer up to and including each run
  std::int64_t blocks_per_layer_ = 0;
  std::int64_t num_tasks_ = 0;
  std::int64_t num_bytes_ = 0;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
