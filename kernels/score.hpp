// Host functions that score rows on the device. Each queues kernels on `stream` and returns: no allocation, no
// synchronisation. Sizes have been validated, contents of device arrays not.
#pragma once

#include <cuda_runtime_api.h>

#include "score_params.hpp"

namespace pikv::kernels {

/// Requires: num_rows > 0.
[[nodiscard]] cudaError_t launch_deviation(const DeviationParams& params, cudaStream_t stream);

/// Requires: num_vectors > 0, num_keys > 0, and workspace for what is wanted.
[[nodiscard]] cudaError_t launch_attention(const AttentionParams& params, cudaStream_t stream);

}  // namespace pikv::kernels
