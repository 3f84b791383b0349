// Moves keys or values of one block of tokens from one plane to another through the row kernels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu/plane.hpp"
#include "cpu/row_kernels.hpp"
#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

enum class Direction : std::uint8_t { kReanchor, kUnanchor };
enum class Side : std::uint8_t { kKey, kValue };

/// Whether stores may bypass the cache, where alignment allows.
enum class Stores : std::uint8_t { kCached, kMayStream };

inline constexpr std::size_t kBlockTokens = 64;

/// At most kBlockTokens tokens that are moved together.
struct TokenBlock {
  std::size_t num_tokens = 0;
  std::array<Slot, kBlockTokens> source;
  std::array<Slot, kBlockTokens> target;
  std::array<Position, kBlockTokens> position;  // 0 where nothing turns
};

using SourcePlane = Plane<const std::byte>;
using TargetPlane = Plane<std::byte>;

[[nodiscard]] inline std::size_t index_of(DType dtype) noexcept { return static_cast<std::size_t>(dtype); }

/// Planes hold one of the kNumDTypes types that the row kernels know.
class BlockMove {
 public:
  /// Bytes of scratch that a move needs where a plane's channels are not adjacent.
  [[nodiscard]] static std::int64_t scratch_bytes(const KvGeometry& geometry) noexcept;

  /// scratch: [scratch_bytes()], null when all channels are adjacent. All references outlive the move.
  BlockMove(const KvTransfer& transfer, const RowKernels& kernels, Direction direction, Stores stores,
            const TokenBlock& block, std::byte* scratch) noexcept
      : geometry_(transfer.geometry),
        rope_(transfer.rope),
        kernels_(kernels),
        direction_(direction),
        stores_(stores),
        block_(block),
        scratch_(scratch) {}

  void move(Side side, const SourcePlane& source, const TargetPlane& target) noexcept {
    if (side == Side::kKey && rope_.turns()) {
      move_turned(source, target);
    } else {
      move_unturned(source, target);
    }
  }

 private:
  void move_turned(const SourcePlane& source, const TargetPlane& target) noexcept;
  void move_unturned(const SourcePlane& source, const TargetPlane& target) noexcept;
  void locate_rows(const SourcePlane& source, const TargetPlane& target) noexcept;
  [[nodiscard]] std::size_t store_for(const TargetPlane& target) const noexcept;
  [[nodiscard]] MoveKeyRow key_kernel(const SourcePlane& source, const TargetPlane& target) const noexcept;
  [[nodiscard]] KeyRow key_row(std::size_t i) const noexcept;
  void move_joined_rows(MoveElements kernel, std::int64_t row_elements, std::int64_t source_bytes,
                        std::int64_t target_bytes) const noexcept;
  void move_unturned_heads(const SourcePlane& source, const TargetPlane& target) const noexcept;
  template <class RowMove>
  void move_tiles(const SourcePlane& source, const TargetPlane& target, const RowMove& move_row) const noexcept;

  const KvGeometry& geometry_;
  const RopeTableView& rope_;
  const RowKernels& kernels_;
  Direction direction_;
  Stores stores_;
  const TokenBlock& block_;
  std::byte* scratch_;
  std::array<const std::byte*, kBlockTokens> source_rows_;  // [num_tokens] of the plane being moved
  std::array<std::byte*, kBlockTokens> target_rows_;
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
