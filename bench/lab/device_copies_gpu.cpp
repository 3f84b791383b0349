#include <cuda_runtime_api.h>

#include <thread>

#include "lab/device_copies.hpp"
#include "mini_engine/gpu/device.hpp"

namespace lab {
namespace {

/// Whatever stream computes what is copied. While another thread records a graph that is refused, for a moment.
void wait_for_device(const char* what) {
  cudaError_t error = cudaDeviceSynchronize();
  while (error == cudaErrorStreamCaptureUnsupported) {
    (void)cudaGetLastError();
    std::this_thread::yield();
    error = cudaDeviceSynchronize();
  }
  mini_engine::gpu::check(error, what);
}

}  // namespace

void copy_from_device(const void* from, void* to, std::size_t size_bytes) {
  wait_for_device("waiting before a copy out of device memory");
  mini_engine::gpu::check(cudaMemcpy(to, from, size_bytes, cudaMemcpyDeviceToHost), "copying out of device memory");
}

void copy_to_device(const void* from, void* to, std::size_t size_bytes) {
  wait_for_device("waiting before a copy into device memory");
  mini_engine::gpu::check(cudaMemcpy(to, from, size_bytes, cudaMemcpyHostToDevice), "copying into device memory");
  // Out of pageable memory cudaMemcpy returns once it has read all; streams that do not wait for the default one would
  // not see the end.
  wait_for_device("waiting for a copy into device memory");
}

}  // namespace lab
