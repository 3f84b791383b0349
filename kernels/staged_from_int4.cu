#include "reanchor_staged.cuh"

namespace pikv::kernels {

template cudaError_t launch_staged_from<SourceKind::kInt4>(const ReanchorParams&, DType, cudaStream_t);

}  // namespace pikv::kernels
