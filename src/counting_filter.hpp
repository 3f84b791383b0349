// Says "surely absent" of most hashes that are not in a set, from one byte that is likely to be in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace pikv::detail {

/// Invariant: a cell counts the members that fall into it, up to kFull, and stays full from then on. So a cell of 0
/// means that none does. Eight cells or more a member let at least seven in eight strangers be told apart.
class CountingFilter {
 public:
  CountingFilter() : cells_(kMinCells) {}

  [[nodiscard]] bool may_contain(std::uint64_t hash) const noexcept { return cells_[place_of(hash)] != 0; }
  /// True when another member would crowd the filter: rebuild() it first.
  [[nodiscard]] bool crowded() const noexcept { return kCellsPerMember * (size_ + 1) > cells_.size(); }
  /// Twice as large and empty, to be filled anew. May throw std::bad_alloc, and is then as if not called.
  void rebuild() {
    std::vector<std::uint8_t> cells(2 * cells_.size());
    cells_.swap(cells);
    size_ = 0;
  }

  void insert(std::uint64_t hash) noexcept {
    std::uint8_t& cell = cells_[place_of(hash)];
    if (cell != kFull) ++cell;
    ++size_;
  }
  /// Requires: the hash was inserted.
  void erase(std::uint64_t hash) noexcept {
    std::uint8_t& cell = cells_[place_of(hash)];
    if (cell != kFull) --cell;
    --size_;
  }

 private:
  static constexpr std::size_t kMinCells = 1024;
  static constexpr std::size_t kCellsPerMember = 8;
  static constexpr std::uint8_t kFull = std::numeric_limits<std::uint8_t>::max();

  [[nodiscard]] std::size_t place_of(std::uint64_t hash) const noexcept { return hash & (cells_.size() - 1); }

  std::vector<std::uint8_t> cells_;
  std::size_t size_ = 0;
};

}  // namespace pikv::detail
