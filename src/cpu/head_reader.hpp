// Reads one head of some tokens as fp32, for whatever computes on rows rather than moves them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/block_move.hpp"
#include "cpu/row_kernels.hpp"
#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Where rows stand, and how their keys are turned on the way.
struct HeadSource {
  ConstKvView view;
  SlotMap slots = SlotMap::consecutive(0, 0);
  PositionMap positions = PositionMap::consecutive(0);  ///< not read where the table does not turn
  RopeTableView rope{};                                 ///< a default one: keys as they stand
  Direction direction = Direction::kReanchor;
  std::int32_t head_dim = 0;
};

class HeadReader {
 public:
  /// Tokens that one call reads at most: a whole group of int4 keys.
  static constexpr std::int64_t kMaxTokens = 32;
  static_assert(kMaxTokens == kInt4GroupTokens);

  /// Elements of scratch that a reader needs.
  [[nodiscard]] static std::int64_t scratch_elements(const KvGeometry& geometry) noexcept {
    return kMaxTokens * geometry.head_dim;
  }

  /// scratch: [scratch_elements()]. References, and what `source` points to, outlive the reader.
  HeadReader(const HeadSource& source, const RowKernels& kernels, float* scratch) noexcept
      : source_(source), kernels_(kernels), scratch_(scratch) {}

  /// Tokens [begin, begin + count) of one head; keys turned as the source says, not rounded.
  /// rows: [count][D]. Requires: 0 < count <= kMaxTokens.
  void read(Side side, std::int32_t layer, std::int32_t head, std::int64_t begin, std::int64_t count,
            float* rows) const noexcept;

 private:
  const HeadSource source_;
  const RowKernels& kernels_;
  float* scratch_;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
