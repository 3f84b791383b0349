// Where memory comes from: MemoryResource, which a host application may implement, and Buffer, which owns one piece.
//
// Nothing in pikv allocates chunk or device memory except through a resource it was given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// A source of memory in one memory space. Implementations must allow concurrent calls.
class MemoryResource {
 public:
  virtual ~MemoryResource() = default;

  [[nodiscard]] virtual MemorySpace space() const noexcept = 0;

  /// `size_bytes` bytes aligned to at least 64, usable by work queued on `stream` from now on.
  /// Fails with kOutOfMemory. Requires: size_bytes > 0.
  [[nodiscard]] virtual Result<void*> allocate_async(std::size_t size_bytes, StreamRef stream) = 0;

  /// Returns what allocate_async() gave, of the same size; it may be reused by work queued on `stream` from now on.
  virtual void deallocate_async(void* data, std::size_t size_bytes, StreamRef stream) noexcept = 0;
};

/// Ordinary host memory, aligned to 64 bytes. Never destroyed; safe from any thread at any time.
[[nodiscard]] PIKV_API MemoryResource& host_memory_resource() noexcept;

/// Owns one allocation and knows the resource and stream it goes back to. Move-only.
class Buffer {
 public:
  Buffer() noexcept = default;
  [[nodiscard]] static Result<Buffer> allocate(std::size_t size_bytes, MemoryResource& resource, StreamRef stream) {
    if (size_bytes == 0) return invalid_argument("Buffer: size must be positive");
    Result<void*> data = resource.allocate_async(size_bytes, stream);
    if (!data.ok()) return data.status();
    return Buffer(static_cast<std::byte*>(*data), size_bytes, resource, stream);
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) resource_->deallocate_async(data_, size_bytes_, stream_);
  }

  [[nodiscard]] std::byte* data() noexcept { return data_; }
  [[nodiscard]] const std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }
  /// Where the memory goes back to; null for an empty buffer.
  [[nodiscard]] const MemoryResource* resource() const noexcept { return resource_; }
  [[nodiscard]] MemorySpace space() const noexcept { return resource_ ? resource_->space() : MemorySpace::kHost; }
  /// The stream after whose queued work the memory may be reused.
  void release_after(StreamRef stream) noexcept { stream_ = stream; }

 private:
  Buffer(std::byte* data, std::size_t size_bytes, MemoryResource& resource, StreamRef stream) noexcept
      : data_(data), size_bytes_(size_bytes), resource_(&resource), stream_(stream) {}
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(resource_, other.resource_);
    std::swap(stream_, other.stream_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_bytes_ = 0;
  MemoryResource* resource_ = nullptr;
  StreamRef stream_ = StreamRef::legacy_default();
};

}  // namespace v0
}  // namespace pikv
