#include "reanchor.cuh"

template cudaError_t pikv::kernels::launch_vectors_from<pikv::kernels::SourceKind::kInt4>(const ReanchorParams&, DType,
                                                                                        cudaStream_t);
