#include <cuda_runtime_api.h>

#include "lab/device_copies.hpp"
#include "mini_engine/gpu/device.hpp"

namespace lab {

void copy_from_device(const void* from, void* to, std::size_t size_bytes) {
  mini_engine::gpu::check(cudaDeviceSynchronize(), "waiting before a copy out of device memory");
  mini_engine::gpu::check(cudaMemcpy(to, from, size_bytes, cudaMemcpyDeviceToHost), "copying out of device memory");
}

void copy_to_device(const void* from, void* to, std::size_t size_bytes) {
  mini_engine::gpu::check(cudaDeviceSynchronize(), "waiting before a copy into device memory");
  mini_engine::gpu::check(cudaMemcpy(to, from, size_bytes, cudaMemcpyHostToDevice), "copying into device memory");
  // Out of pageable memory cudaMemcpy returns once it has read all; streams that do not wait for the default one would
  // not see the end.
  mini_engine::gpu::check(cudaDeviceSynchronize(), "waiting for a copy into device memory");
}

}  // namespace lab
