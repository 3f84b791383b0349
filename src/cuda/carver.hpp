// A workspace as the arrays in it.
#pragma once

#include <cstddef>

namespace pikv::detail {

/// Places arrays one after the other, each aligned to 256 bytes as CUB asks. Without memory it only counts.
class Carver {
 public:
  explicit Carver(std::byte* memory) noexcept : memory_(memory) {}
  template <class T>
  [[nodiscard]] T* take(std::size_t count) noexcept {
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }
  [[nodiscard]] void* take_bytes(std::size_t size_bytes) noexcept {
    void* const begin = memory_ == nullptr ? nullptr : memory_ + used_bytes_;
    used_bytes_ += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  }
  [[nodiscard]] std::size_t used_bytes() const noexcept { return used_bytes_; }

  static constexpr std::size_t kAlignment = 256;

 private:
  std::byte* memory_;
  std::size_t used_bytes_ = 0;
};

}  // namespace pikv::detail
