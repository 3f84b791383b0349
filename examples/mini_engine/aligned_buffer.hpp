// Uninitialised memory on cache-line boundaries that grows and never shrinks: weights and the scratch of a pass.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "error.hpp"

namespace mini_engine {

/// Large buffers ask for huge pages: decoding streams all weights once per token, and page walks would cost a fifth of
/// the memory's bandwidth.
template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "elements are not constructed");

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::int64_t size) { grow(size); }
  AlignedBuffer(AlignedBuffer&& other) noexcept : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  /// Makes room for `size` elements; what was there before is lost when the room has to grow. Throws Error when the
  /// memory cannot be had.
  T* grow(std::int64_t size) {
    if (size > size_) {
      data_.reset();
      size_ = 0;
      if (size > INT64_MAX / static_cast<std::int64_t>(2 * sizeof(T))) {
        throw Error("a buffer of " + std::to_string(size) + " elements is too large");
      }
      const std::size_t num_bytes = static_cast<std::size_t>(size) * sizeof(T);
      const std::align_val_t alignment{num_bytes >= 2 * kHugePage ? kHugePage : kCacheLine};
      void* memory = ::operator new(num_bytes, alignment, std::nothrow);
      if (memory == nullptr) throw Error("cannot allocate " + std::to_string(num_bytes) + " bytes");
      data_ = {static_cast<T*>(memory), Free{alignment}};
      size_ = size;
#if defined(__linux__)
      // Advice only: without huge pages everything works as well, if slower.
      if (num_bytes >= 2 * kHugePage) (void)madvise(memory, num_bytes, MADV_HUGEPAGE);
#endif
    }
    return data_.get();
  }

  [[nodiscard]] T* data() { return data_.get(); }
  [[nodiscard]] const T* data() const { return data_.get(); }
  [[nodiscard]] std::int64_t size() const { return size_; }

 private:
  static constexpr std::size_t kCacheLine = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  struct Free {
    std::align_val_t alignment{kCacheLine};
    void operator()(T* memory) const { ::operator delete(memory, alignment); }
  };
  std::unique_ptr<T[], Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace mini_engine
