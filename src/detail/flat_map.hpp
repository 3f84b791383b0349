// An open-addressing hash table with linear probing, for small trivially copyable keys and values whose keys are
// already spread by a secret hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace pikv::detail {

/// `Key` offers operator== and `std::uint64_t spread() const`. Invariant: the table has a power of two of cells, at
/// most half of them used, and no free cell lies between a key's home and its place.
template <class Key, class Value>
class FlatMap {
 public:
  FlatMap() : cells_(kMinCells) {}

  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Null when absent. Valid until the next insertion or removal.
  [[nodiscard]] Value* find(const Key& key) noexcept {
    Cell& cell = cells_[place_of(key)];
    return cell.used ? &cell.value : nullptr;
  }
  [[nodiscard]] const Value* find(const Key& key) const noexcept {
    const Cell& cell = cells_[place_of(key)];
    return cell.used ? &cell.value : nullptr;
  }

  /// Makes room for `count` more keys, so that inserting them allocates nothing.
  void reserve_more(std::size_t count) {
    std::size_t num_cells = cells_.size();
    while (num_cells < 2 * (size_ + count)) num_cells *= 2;
    if (num_cells == cells_.size()) return;
    std::vector<Cell> old(num_cells);
    old.swap(cells_);
    for (const Cell& cell : old) {
      if (cell.used) cells_[place_of(cell.key)] = cell;
    }
  }

  /// The value of `key`, made of Value() when it was absent. Requires: room for it was reserved.
  [[nodiscard]] std::pair<Value*, bool> insert(const Key& key) noexcept {
    Cell& cell = cells_[place_of(key)];
    const bool inserted = !cell.used;
    if (inserted) {
      cell = Cell{key, Value(), true};
      ++size_;
    }
    return {&cell.value, inserted};
  }

  /// Requires: the key is there.
  void erase(const Key& key) noexcept {
    const std::size_t mask = cells_.size() - 1;
    std::size_t hole = place_of(key);
    // Cells behind the hole move up unless that would put them before their home.
    for (std::size_t i = (hole + 1) & mask; cells_[i].used; i = (i + 1) & mask) {
      const std::size_t home = cells_[i].key.spread() & mask;
      if (((i - home) & mask) >= ((i - hole) & mask)) {
        cells_[hole] = cells_[i];
        hole = i;
      }
    }
    cells_[hole].used = false;
    --size_;
  }

 private:
  static constexpr std::size_t kMinCells = 16;
  struct Cell {
    Key key{};
    Value value{};
    bool used = false;
  };

  /// Where the key is, or the free cell where it belongs.
  [[nodiscard]] std::size_t place_of(const Key& key) const noexcept {
    const std::size_t mask = cells_.size() - 1;
    std::size_t i = key.spread() & mask;
    while (cells_[i].used && !(cells_[i].key == key)) i = (i + 1) & mask;
    return i;
  }

  std::vector<Cell> cells_;
  std::size_t size_ = 0;
};

}  // namespace pikv::detail
