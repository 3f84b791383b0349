// Host functions that start the kernels. Each queues one or two on `stream` and returns: no allocation, no
// synchronisation, capturable in a graph. Parameters have been validated; the result is that of the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "params.hpp"
#include "pikv/rope.hpp"

namespace pikv::kernels {

/// Vectors of 8 elements. Requires: is_vectorizable() of every plane that `params.planes` names.
[[nodiscard]] cudaError_t launch_reanchor_vectors(const ReanchorParams& params, SourceKind source, DType target,
                                                  cudaStream_t stream);
/// The same between equal types of 16 bits, a little faster. Requires: what launch_reanchor_vectors() does, keys and
/// values together, heads of 2 to 32 vectors (a power of two) that turn as a whole or not at all, and rows of
/// a multiple of kStripeVectors vectors.
[[nodiscard]] cudaError_t launch_reanchor_stripes(const ReanchorParams& params, DType type, cudaStream_t stream);
/// Any strides and alignments, element by element.
[[nodiscard]] cudaError_t launch_reanchor_elements(const ReanchorParams& params, SourceKind source, DType target,
                                                   cudaStream_t stream);

[[nodiscard]] cudaError_t launch_encode(const EncodeParams& params, cudaStream_t stream);

}  // namespace pikv::kernels
