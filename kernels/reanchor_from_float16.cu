#include "reanchor.cuh"

namespace pikv::kernels {

template cudaError_t launch_vectors_from<SourceKind::kFloat16>(const ReanchorParams&, DType, cudaStream_t);

}  // namespace pikv::kernels
