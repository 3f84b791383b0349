// A kernel that only takes time.
#pragma once

#include <cuda_runtime_api.h>

namespace pikv_bench {

/// Keeps `stream` busy for about so long.
cudaError_t spin(int microseconds, cudaStream_t stream);

}  // namespace pikv_bench
