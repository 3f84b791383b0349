// Some rows of a prompt as readers take them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cpu/head_reader.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Slots and positions of at most kMaxRows rows. Holds them itself: calls on several threads share nothing that could.
struct RowBlock {
  static constexpr std::int64_t kMaxRows = HeadReader::kMaxTokens;

  std::array<Slot, static_cast<std::size_t>(kMaxRows)> slots;
  std::array<Position, static_cast<std::size_t>(kMaxRows)> positions;
  std::int64_t count = 0;

  /// Of `rows` those from block * kMaxRows on. row_slots: of all rows of the prompt; a row's position is its number.
  RowBlock(const SlotMap& row_slots, std::span<const std::int32_t> rows, std::int64_t block) noexcept
      : count(count_of(static_cast<std::int64_t>(rows.size()), block)) {
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      positions[at] = rows[static_cast<std::size_t>(block * kMaxRows + i)];
      slots[at] = row_slots.slot(positions[at]);
    }
  }

  [[nodiscard]] static constexpr std::int64_t num_blocks(std::int64_t num_rows) noexcept {
    return (num_rows + kMaxRows - 1) / kMaxRows;
  }
  [[nodiscard]] static constexpr std::int64_t count_of(std::int64_t num_rows, std::int64_t block) noexcept {
    const std::int64_t left = num_rows - block * kMaxRows;
    return left < kMaxRows ? left : kMaxRows;
  }

  /// The rows in a view; their keys turned back by `rope`. The block must outlive the source.
  [[nodiscard]] HeadSource source(const ConstKvView& view, const RopeTableView& rope,
                                  std::int32_t head_dim) const noexcept {
    return {.view = view,
            .slots = SlotMap::per_token(slots.data(), count),
            .positions = PositionMap::per_token(positions.data()),
            .rope = rope,
            .direction = Direction::kUnanchor,
            .head_dim = head_dim};
  }
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
