#include "pikv/memory.hpp"

#include <cstdlib>
#include <new>
#include <string>

namespace pikv {
inline namespace v0 {
namespace {

constexpr std::size_t kAlignment = 64;

class HostMemoryResource final : public MemoryResource {
 public:
  MemorySpace space() const noexcept override { return MemorySpace::kHost; }

  Result<void*> allocate_async(std::size_t size_bytes, StreamRef /*stream*/) override {
    if (size_bytes == 0) return invalid_argument("host memory: size_bytes must be positive");
    void* data = nullptr;
    if (posix_memalign(&data, kAlignment, size_bytes) != 0) {
      return out_of_memory("host memory: no " + std::to_string(size_bytes) + " bytes left");
    }
    return data;
  }

  void deallocate_async(void* data, std::size_t /*size_bytes*/, StreamRef /*stream*/) noexcept override {
    std::free(data);
  }
};

}  // namespace

MemoryResource& host_memory_resource() noexcept {
  // Built in static storage and never destroyed, so that buffers freed during program exit still find it.
  alignas(HostMemoryResource) static std::byte storage[sizeof(HostMemoryResource)];
  static MemoryResource* const resource = new (storage) HostMemoryResource;
  return *resource;
}

}  // namespace v0
}  // namespace pikv
