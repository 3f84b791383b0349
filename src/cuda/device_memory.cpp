#include <cuda_runtime_api.h>

#include <cstdint>
#include <new>

#include "cuda/error.hpp"
#include "pikv/cuda.hpp"

namespace pikv {
inline namespace v0 {
namespace {

cudaStream_t stream_of(StreamRef stream) noexcept { return static_cast<cudaStream_t>(stream.handle()); }

class DeviceMemory final : public MemoryResource {
 public:
  DeviceMemory(int device, cudaMemPool_t pool) noexcept : device_(device), pool_(pool) {}
  ~DeviceMemory() override { (void)cudaMemPoolDestroy(pool_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  MemorySpace space() const noexcept override { return MemorySpace::kDevice; }

  Result<void*> allocate_async(std::size_t size_bytes, StreamRef stream) override {
    if (size_bytes == 0) return invalid_argument("CUDA device memory: size must be positive");
    const detail::DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    void* data = nullptr;
    PIKV_TRY(detail::cuda_status(cudaMallocFromPoolAsync(&data, size_bytes, pool_, stream_of(stream)),
                                 "cudaMallocFromPoolAsync"));
    return data;
  }

  void deallocate_async(void* data, std::size_t /*size_bytes*/, StreamRef stream) noexcept override {
    const detail::DeviceScope scope(device_);
    if (cudaFreeAsync(data, stream_of(stream)) != cudaSuccess) (void)cudaGetLastError();
  }

 private:
  const int device_;
  const cudaMemPool_t pool_;
};

}  // namespace

Result<std::unique_ptr<MemoryResource>> make_cuda_device_memory(int device) {
  const detail::DeviceScope scope(device);
  PIKV_TRY(scope.status());
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool = nullptr;
  PIKV_TRY(detail::cuda_status(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate"));
  std::unique_ptr<MemoryResource> memory(new (std::nothrow) DeviceMemory(device, pool));
  if (memory == nullptr) {
    (void)cudaMemPoolDestroy(pool);
    return out_of_memory("CUDA device memory: no host memory for its state");
  }
  // Without this the pool would give freed memory back at every synchronisation, and take it again at the next chunk.
  std::uint64_t keep_all = UINT64_MAX;
  PIKV_TRY(detail::cuda_status(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all),
                               "cudaMemPoolSetAttribute"));
  return memory;
}

}  // namespace v0
}  // namespace pikv
