// Launching a kernel so that it gets going while the one before it on the stream is ending.
#pragma once

#include <cuda_runtime_api.h>

namespace pikv::kernels {

/// As kernel<<<grid, threads, 0, stream>>>(params), but blocks may start once every block of the kernel before has
/// called allow_next_launch() or ended. The kernel must call wait_for_previous_launch() before it touches memory that
/// another kernel may have written.
template <class Params>
[[nodiscard]] cudaError_t launch_overlapped(void (*kernel)(Params), dim3 grid, int threads, const Params& params,
                                            cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

__device__ __forceinline__ void allow_next_launch() { asm volatile("griddepcontrol.launch_dependents;"); }

/// Returns once the kernel before has ended and what it wrote can be read.
__device__ __forceinline__ void wait_for_previous_launch() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace pikv::kernels
