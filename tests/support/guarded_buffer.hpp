// Memory for test outputs: filled with a poison that is NaN in every format, between guards that nothing may touch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace test_support {

class GuardedBuffer {
 public:
  /// All ones: a NaN as fp32, fp16 and bf16, which no conversion of finite numbers gives.
  static constexpr std::byte kPoison{0xFF};

  /// `size_bytes` bytes that start `misalignment_bytes` after a 64-byte boundary.
  explicit GuardedBuffer(std::int64_t size_bytes, std::int64_t misalignment_bytes = 0)
      : size_bytes_(size_bytes),
        storage_(static_cast<std::size_t>(size_bytes + 2 * kGuardBytes + 2 * kAlignment), kGuard) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuardBytes;
    const std::uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
    begin_ = kGuardBytes + static_cast<std::int64_t>(aligned - address) + misalignment_bytes;
    std::fill_n(storage_.begin() + begin_, size_bytes, kPoison);
  }

  [[nodiscard]] std::byte* data() { return storage_.data() + begin_; }
  [[nodiscard]] const std::byte* data() const { return storage_.data() + begin_; }
  [[nodiscard]] std::int64_t size_bytes() const { return size_bytes_; }

  [[nodiscard]] bool guards_intact() const {
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      const auto place = static_cast<std::int64_t>(i);
      if (place >= begin_ && place < begin_ + size_bytes_) continue;
      if (storage_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte kGuard{0xA5};
  static constexpr std::int64_t kGuardBytes = 256;
  static constexpr std::int64_t kAlignment = 64;  // misalignments stay below it

  std::int64_t size_bytes_;
  std::int64_t begin_ = 0;
  std::vector<std::byte> storage_;
};

}  // namespace test_support
