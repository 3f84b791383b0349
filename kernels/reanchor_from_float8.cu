#include "reanchor.cuh"

template cudaError_t pikv::kernels::launch_vectors_from<pikv::kernels::SourceKind::kFloat8E4M3>(const ReanchorParams&, DType,
                                                                                        cudaStream_t);
