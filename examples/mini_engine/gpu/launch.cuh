// Launches that overlap: a kernel may be set up while the one before it in the stream still runs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "device.hpp"

namespace mini_engine::gpu {

/// Every kernel launched by launch() calls this before it touches what other kernels write: they have ended then.
__device__ inline void wait_for_kernels_before() {
#if defined(__CUDA_ARCH__)
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel of the stream may be set up from now on.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__)
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Throws Error that names `what`.
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), dim3 blocks, unsigned threads, std::size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute overlaps{};
  overlaps.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlaps.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlaps;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), what);
}

}  // namespace mini_engine::gpu
