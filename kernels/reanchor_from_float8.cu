#include "reanchor.cuh"

namespace pikv::kernels {

template cudaError_t launch_vectors_from<SourceKind::kFloat8E4M3>(const ReanchorParams&, DType, cudaStream_t);

}  // namespace pikv::kernels
