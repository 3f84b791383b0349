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
/// The same through shared memory, for kinds that take decoding or a target that takes encoding. Requires: what
/// launch_reanchor_vectors() does, sources in device memory whose rows (or heads) begin on 16 bytes, consecutive source
/// slots for kInt8 and kInt4, a target of at most 16 bits, of 8 if the source has 16, and params.staging.
[[nodiscard]] cudaError_t launch_reanchor_staged(const ReanchorParams& params, SourceKind source, DType target,
                                                 cudaStream_t stream);
/// Any strides and alignments, element by element.
[[nodiscard]] cudaError_t launch_reanchor_elements(const ReanchorParams& params, SourceKind source, DType target,
                                                   cudaStream_t stream);

[[nodiscard]] cudaError_t launch_encode(const EncodeParams& params, cudaStream_t stream);

}  // namespace pikv::kernels
