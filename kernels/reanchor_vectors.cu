// Chooses the instantiation; the kernels themselves are compiled in reanchor_from_*.cu.
#include "reanchor.cuh"

namespace pikv::kernels {

extern template cudaError_t launch_vectors_from<SourceKind::kFloat32>(const ReanchorParams&, DType, cudaStream_t);
extern template cudaError_t launch_vectors_from<SourceKind::kFloat16>(const ReanchorParams&, DType, cudaStream_t);
extern template cudaError_t launch_vectors_from<SourceKind::kBFloat16>(const ReanchorParams&, DType, cudaStream_t);
extern template cudaError_t launch_vectors_from<SourceKind::kFloat8E4M3>(const ReanchorParams&, DType, cudaStream_t);
extern template cudaError_t launch_vectors_from<SourceKind::kInt8>(const ReanchorParams&, DType, cudaStream_t);
extern template cudaError_t launch_vectors_from<SourceKind::kInt4>(const ReanchorParams&, DType, cudaStream_t);

cudaError_t launch_reanchor_vectors(const ReanchorParams& params, SourceKind source, DType target,
                                    cudaStream_t stream) {
  switch (source) {
    case SourceKind::kFloat32:
      return launch_vectors_from<SourceKind::kFloat32>(params, target, stream);
    case SourceKind::kFloat16:
      return launch_vectors_from<SourceKind::kFloat16>(params, target, stream);
    case SourceKind::kBFloat16:
      return launch_vectors_from<SourceKind::kBFloat16>(params, target, stream);
    case SourceKind::kFloat8E4M3:
      return launch_vectors_from<SourceKind::kFloat8E4M3>(params, target, stream);
    case SourceKind::kInt8:
      return launch_vectors_from<SourceKind::kInt8>(params, target, stream);
    case SourceKind::kInt4:
      return launch_vectors_from<SourceKind::kInt4>(params, target, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pikv::kernels
