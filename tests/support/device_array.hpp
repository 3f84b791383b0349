// An array in a backend's memory with copies to and from the host.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "pikv/backend.hpp"

namespace test_support {

/// Every call waits until it is done. Failures throw pikv::BadResult.
template <class T>
class DeviceArray {
 public:
  DeviceArray(pikv::Backend& backend, const std::vector<T>& values) : backend_(backend), size_(values.size()) {
    // One element more, so that an empty array has an address as well.
    const pikv::StreamRef stream = pikv::StreamRef::legacy_default();
    buffer_ = pikv::Buffer::allocate((size_ + 1) * sizeof(T), backend.memory_resource(), stream).value();
    upload(values);
  }

  void upload(const std::vector<T>& values) {
    copy(buffer_.data(), values.data(), std::min(values.size(), size_) * sizeof(T));
  }
  [[nodiscard]] std::vector<T> download() const {
    std::vector<T> values(size_);
    copy(values.data(), buffer_.data(), size_ * sizeof(T));
    return values;
  }

  [[nodiscard]] T* data() { return reinterpret_cast<T*>(buffer_.data()); }
  [[nodiscard]] std::span<T> span() { return {data(), size_}; }

 private:
  void copy(void* target, const void* source, std::size_t size_bytes) const {
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
