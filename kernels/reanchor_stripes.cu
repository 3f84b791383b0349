#include "reanchor_stripes.cuh"

namespace pikv::kernels {

cudaError_t launch_reanchor_stripes(const ReanchorParams& params, DType type, cudaStream_t stream) {
  if (type == DType::kFloat16) return launch_stripes_from<SourceKind::kFloat16>(params, stream);
  return launch_stripes_from<SourceKind::kBFloat16>(params, stream);
}

}  // namespace pikv::kernels
