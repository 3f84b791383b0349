// An array in a backend's memory, fenced on both sides, with copies to and from the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pikv/backend.hpp"

namespace test_support {

/// Every call waits until it is done. Failures throw pikv::BadResult.
template <class T>
class DeviceArray {
 public:
  DeviceArray(pikv::Backend& backend, const std::vector<T>& values) : backend_(backend), size_(values.size()) {
    const std::vector<std::byte> fenced(size_ * sizeof(T) + 2 * kFenceBytes, kFence);
    const pikv::StreamRef stream = pikv::StreamRef::legacy_default();
    buffer_ = pikv::Buffer::allocate(fenced.size(), backend.memory_resource(), stream).value();
    copy(buffer_.data(), fenced.data(), fenced.size());
    upload(values);
  }

  void upload(const std::vector<T>& values) { copy(data(), values.data(), std::min(values.size(), size_) * sizeof(T)); }

  /// Throws as well when memory beside the array was written.
  [[nodiscard]] std::vector<T> download() {
    std::vector<std::byte> fence(2 * kFenceBytes);
    copy(fence.data(), buffer_.data(), kFenceBytes);
    copy(fence.data() + kFenceBytes, data() + size_, kFenceBytes);
    if (std::any_of(fence.begin(), fence.end(), [](std::byte b) { return b != kFence; })) {
      throw pikv::BadResult(pikv::Status(pikv::ErrorCode::kInternal, "memory beside an array was written"));
    }
    std::vector<T> values(size_);
    copy(values.data(), data(), size_ * sizeof(T));
    return values;
  }

  [[nodiscard]] T* data() { return reinterpret_cast<T*>(buffer_.data() + kFenceBytes); }
  [[nodiscard]] std::span<T> span() { return {data(), size_}; }

 private:
  static constexpr std::size_t kFenceBytes = 256;
  static constexpr std::byte kFence{0xA5};

  void copy(void* target, const void* source, std::size_t size_bytes) {
    const pikv::StreamRef stream = pikv::StreamRef::legacy_default();
    pikv::Status status = backend_.copy_async(target, source, size_bytes, stream);
    if (status.ok()) status = backend_.synchronize(stream);
    if (!status.ok()) throw pikv::BadResult(status);
  }

  pikv::Backend& backend_;
  std::size_t size_;
  pikv::Buffer buffer_;
};

}  // namespace test_support
