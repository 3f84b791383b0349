// Typed access to the rows of one layer of a paged cache.
#pragma once

#include <cstdint>

#include "bfloat16.hpp"
#include "paged_cache.hpp"

namespace mini_engine {

/// K and V of one layer; T is float or BFloat16 as the cache's precision says. Borrows the cache.
template <typename T>
class CacheRows {
 public:
  CacheRows(PagedCache& cache, int layer)
      : strides_(cache.strides()),
        page_size_(cache.page_size()),
        layer_(reinterpret_cast<T*>(cache.data()) + layer * strides_.layer) {}

  /// [D] of one head of one slot.
  [[nodiscard]] T* key(Slot slot, int head) const {
    return layer_ + slot / page_size_ * strides_.page + slot % page_size_ * strides_.token + head * strides_.head;
  }
  [[nodiscard]] T* value(Slot slot, int head) const { return key(slot, head) + strides_.value_offset; }

  /// Elements between one slot and the next of the same page.
  [[nodiscard]] std::int64_t token_stride() const { return strides_.token; }

  /// Calls body(row, count) for runs of the sequence's rows [begin, end) whose slots follow each other in one page.
  template <typename Body>
  void for_runs(const std::vector<Slot>& slots, std::int32_t begin, std::int32_t end, const Body& body) const {
    while (begin < end) {
      std::int32_t last = begin;
      while (last + 1 < end && slots[static_cast<std::size_t>(last + 1)] == slots[static_cast<std::size_t>(last)] + 1 &&
             slots[static_cast<std::size_t>(last + 1)] % page_size_ != 0) {
        ++last;
      }
      body(begin, last + 1 - begin);
      begin = last + 1;
    }
  }

 private:
  PagedCache::Strides strides_;
  std::int64_t page_size_;
  T* layer_;
};

}  // namespace mini_engine
