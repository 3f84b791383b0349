// The engine's own KV cache: pages of a fixed number of tokens, handed out to sequences, in fp32 or bf16.
// It holds rotated keys, like every engine's cache, and knows nothing of chunks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "config.hpp"
#include "types.hpp"

namespace mini_engine {

/// Gives memory for a cache, or null; its deleter takes the memory back.
using CacheAllocator = std::function<std::shared_ptr<std::byte>(std::size_t size_bytes)>;

/// Where a cache lies: who may read and write it.
enum class CacheMemory : std::uint8_t { kHost, kDevice };

/// K and V of all layers in one allocation; one page of one layer is [2 (K, V)][S][H][D], and layers lie apart by
/// `layer_stride` elements. Not thread-safe; one engine owns it.
class PagedCache {
 public:
  /// In host memory, zeroed. Throws Error when the size overflows or cannot be allocated.
  PagedCache(const ModelConfig& config, Precision precision, int num_pages, int page_size);
  /// In what `allocate` gives, which is of `memory`.
  PagedCache(const ModelConfig& config, Precision precision, int num_pages, int page_size, CacheMemory memory,
             const CacheAllocator& allocate);

  [[nodiscard]] Precision precision() const { return precision_; }
  [[nodiscard]] CacheMemory memory() const { return memory_; }
  [[nodiscard]] int page_size() const { return page_size_; }
  [[nodiscard]] int num_pages() const { return num_pages_; }
  [[nodiscard]] int num_free_pages() const { return static_cast<int>(free_pages_.size()); }
  [[nodiscard]] std::int64_t num_slots() const { return std::int64_t{num_pages_} * page_size_; }

  /// Takes `count` pages; throws Error when fewer are free. Pages come back in no particular order.
  [[nodiscard]] std::vector<std::int32_t> take_pages(int count);
  void give_back(const std::vector<std::int32_t>& pages);

  /// Strides in elements; the address of K(layer, slot, head, dim) is
  /// data() + layer*layer_stride + (slot/S)*page_stride + (slot%S)*token_stride + head*head_stride + dim,
  /// and V's lies `value_offset` elements behind it.
  struct Strides {
    std::int64_t layer, page, token, head, value_offset;
  };
  [[nodiscard]] const Strides& strides() const { return strides_; }
  [[nodiscard]] std::byte* data() { return data_.get(); }
  [[nodiscard]] const std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }

 private:
  Precision precision_;
  CacheMemory memory_;
  int num_pages_;
  int page_size_;
  Strides strides_{};
  std::size_t size_bytes_ = 0;
  std::shared_ptr<std::byte> data_;
  std::vector<std::int32_t> free_pages_;
};

/// A request's place in the cache: which slot holds which row, and at which position that row stands. Rows are kept in
/// prompt order. Owns its pages and gives them back on destruction; must not outlive the cache.
class Sequence {
 public:
  explicit Sequence(PagedCache& cache) : cache_(&cache) {}
  ~Sequence();
  Sequence(Sequence&&) noexcept;
  Sequence& operator=(Sequence&&) = delete;

  /// Adds rows at positions size(), size()+1, ...; takes pages as needed (throws Error when there are none).
  void grow(int num_rows);
  /// Forgets rows from `size` on and gives back the pages that leaves empty.
  void truncate(int size);
  [[nodiscard]] int size() const { return static_cast<int>(slots_.size()); }
  [[nodiscard]] const std::vector<Slot>& slots() const { return slots_; }
  [[nodiscard]] const std::vector<std::int32_t>& pages() const { return pages_; }
  [[nodiscard]] PagedCache& cache() const { return *cache_; }

 private:
  PagedCache* cache_;
  std::vector<Slot> slots_;
  std::vector<std::int32_t> pages_;
};

}  // namespace mini_engine
