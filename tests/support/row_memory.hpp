// What worlds of rows are made of: numbers of every type, and maps of every kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "pikv/geometry.hpp"
#include "pikv/types.hpp"

namespace test_support {

/// Bits of a number in `dtype`, cut off rather than rounded: any number of the type will do.
void write_number(std::byte* target, pikv::DType dtype, float value);

enum class SlotKind : std::uint8_t { kConsecutive, kPerToken, kPageTable };

/// Where the rows of a prompt stand: from slot kFirst on, in shuffled pages, or anywhere.
class RowSlots {
 public:
  static constexpr std::int64_t kFirst = 5;

  RowSlots() = default;
  RowSlots(SlotKind kind, std::int64_t num_rows, std::int32_t page_size, std::int64_t num_slots, std::mt19937& random);

  /// Refers to arrays of this object.
  [[nodiscard]] pikv::SlotMap map() const;
  [[nodiscard]] pikv::Slot slot(std::int64_t row) const { return slots_[static_cast<std::size_t>(row)]; }

 private:
  SlotKind kind_ = SlotKind::kConsecutive;
  std::int32_t page_size_ = 1;
  std::vector<pikv::Slot> slots_;  // of every row, whatever the kind
  std::vector<std::int32_t> pages_;
};

}  // namespace test_support
