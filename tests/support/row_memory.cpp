#include "support/row_memory.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace test_support {

using pikv::DType;

void write_number(std::byte* target, DType dtype, float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (dtype == DType::kFloat32) {
    std::memcpy(target, &bits, 4);
    return;
  }
  std::uint32_t narrow = bits >> 16;
  if (dtype == DType::kFloat16) {
    const std::uint32_t exponent = (bits >> 23) & 0xFFU;
    narrow = exponent < 113 ? 0 : ((bits >> 16) & 0x8000U) | ((exponent - 112) << 10) | ((bits >> 13) & 0x3FFU);
  }
  const auto half = static_cast<std::uint16_t>(narrow);
  std::memcpy(target, &half, 2);
}

RowSlots::RowSlots(SlotKind kind, std::int64_t num_rows, std::int32_t page_size, std::int64_t num_slots,
                   std::mt19937& random)
    : kind_(kind), page_size_(page_size) {
  if (kind == SlotKind::kPageTable) {
    const std::int64_t num_pages = (kFirst + num_rows + page_size - 1) / page_size;
    pages_.resize(static_cast<std::size_t>(num_slots / page_size));
    std::iota(pages_.begin(), pages_.end(), 0);
    std::shuffle(pages_.begin(), pages_.end(), random);
    pages_.resize(static_cast<std::size_t>(num_pages));
    for (std::int64_t place = kFirst; place < kFirst + num_rows; ++place) {
      slots_.push_back(pages_[static_cast<std::size_t>(place / page_size)] * std::int64_t{page_size} +
                       place % page_size);
    }
    return;
  }
  slots_.resize(static_cast<std::size_t>(kind == SlotKind::kPerToken ? num_slots : num_rows));
  std::iota(slots_.begin(), slots_.end(), kind == SlotKind::kPerToken ? 0 : kFirst);
  if (kind == SlotKind::kPerToken) std::shuffle(slots_.begin(), slots_.end(), random);
  slots_.resize(static_cast<std::size_t>(num_rows));
}

pikv::SlotMap RowSlots::map() const {
  const auto num_rows = static_cast<std::int64_t>(slots_.size());
  switch (kind_) {
    case SlotKind::kConsecutive:
      return pikv::SlotMap::consecutive(kFirst, num_rows);
    case SlotKind::kPerToken:
      return pikv::SlotMap::per_token(slots_.data(), num_rows);
    case SlotKind::kPageTable:
      break;
  }
  return pikv::SlotMap::page_table(pages_.data(), page_size_, kFirst, num_rows);
}

}  // namespace test_support
