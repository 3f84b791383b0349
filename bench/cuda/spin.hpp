// Kernels that prepare a measurement: one only takes time, one only takes room in the second-level cache.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace pikv_bench {

/// Keeps `stream` busy for about so long.
cudaError_t spin(int microseconds, cudaStream_t stream);

/// Reads `num_bytes` (a multiple of 16) of device memory, which leaves them in the caches instead of what was there.
cudaError_t sweep(const void* memory, std::size_t num_bytes, cudaStream_t stream);

}  // namespace pikv_bench
