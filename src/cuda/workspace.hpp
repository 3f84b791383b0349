// Device memory that grows with the largest call, in the order of streams.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "cuda/carver.hpp"
#include "pikv/memory.hpp"
#include "pikv/status.hpp"

namespace pikv::detail {

/// Errors: kInvalidArgument, headed by `what`, for no memory or none of a device.
[[nodiscard]] inline Status check_workspace_memory(const std::string& what, const MemoryResource* memory) {
  if (memory == nullptr) return invalid_argument(what + ": memory is null");
  if (memory->space() == MemorySpace::kDevice) return {};
  return invalid_argument(what + ": memory is not device memory");
}

/// The resource must outlive it. Not thread-safe.
class Workspace {
 public:
  explicit Workspace(MemoryResource& memory) noexcept : memory_(memory) {}

  /// Sets *begin to `size_bytes` of it on a multiple of Carver::kAlignment. What was there before goes back once the
  /// stream has passed what uses it.
  [[nodiscard]] Status reserve(std::size_t size_bytes, StreamRef stream, std::byte** begin) {
    // A resource aligns to 64 bytes at least, so there is room to start at the next 256.
    const std::size_t room_bytes = size_bytes + Carver::kAlignment;
    if (buffer_.size_bytes() < room_bytes) {
      Result<Buffer> larger = Buffer::allocate(room_bytes, memory_, stream);
      if (!larger.ok()) return larger.status();
      buffer_.release_after(stream);
      buffer_ = std::move(*larger);
    }
    // Wherever its owner is destroyed, the memory is free after the latest call.
    buffer_.release_after(stream);
    void* aligned = buffer_.data();
    std::size_t left_bytes = buffer_.size_bytes();
    *begin = static_cast<std::byte*>(std::align(Carver::kAlignment, size_bytes, aligned, left_bytes));
    return {};
  }

 private:
  MemoryResource& memory_;
  Buffer buffer_;
};

}  // namespace pikv::detail
