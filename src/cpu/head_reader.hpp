// Reads what is to be encoded: one head of some tokens, as fp32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/block_move.hpp"
#include "cpu/row_kernels.hpp"
#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

class HeadReader {
 public:
  /// Tokens that one call reads at most: a whole group of int4 keys.
  static constexpr std::int64_t kMaxTokens = 32;
  static_assert(kMaxTokens == kInt4GroupTokens);

  /// Elements of scratch that a reader needs.
  [[nodiscard]] static std::int64_t scratch_elements(const KvGeometry& geometry) noexcept {
    return kMaxTokens * geometry.head_dim;
  }

  /// scratch: [scratch_elements()]. References outlive the reader.
  HeadReader(const SlabEncode& encode, const RowKernels& kernels, float* scratch) noexcept
      : encode_(encode), kernels_(kernels), scratch_(scratch) {}

  /// Tokens [begin, begin + count) of one head; keys turned back where they stand at positions, not rounded.
  /// rows: [count][D]. Requires: 0 < count <= kMaxTokens.
  void read(Side side, std::int32_t layer, std::int32_t head, std::int64_t begin, std::int64_t count,
            float* rows) const noexcept;

 private:
  const SlabEncode& encode_;
  const RowKernels& kernels_;
  float* scratch_;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
