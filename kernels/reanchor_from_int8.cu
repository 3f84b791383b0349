#include "reanchor.cuh"

namespace pikv::kernels {

template cudaError_t launch_vectors_from<SourceKind::kInt8>(const ReanchorParams&, DType, cudaStream_t);

}  // namespace pikv::kernels
