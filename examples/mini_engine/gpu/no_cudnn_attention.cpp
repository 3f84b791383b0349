#include "cudnn_attention.hpp"
#include "mini_engine/error.hpp"

namespace mini_engine::gpu {

bool has_cudnn_attention() { return false; }

struct CudnnAttention::Impl {};

CudnnAttention::CudnnAttention(const HeadSizes&) {
  throw Error(
      "this build has no cuDNN attention (it needs cuDNN 9 and the headers of cudnn-frontend, "
      "PIKV_CUDNN_FRONTEND_INCLUDE)");
}
CudnnAttention::~CudnnAttention() = default;
CudnnAttention::CudnnAttention(CudnnAttention&&) noexcept = default;
CudnnAttention& CudnnAttention::operator=(CudnnAttention&&) noexcept = default;

void CudnnAttention::operator()(const AttentionBatch&, const AttentionSequence&, std::int32_t, const CacheLayer&,
                                const void*, std::int64_t, void*, cudaStream_t) {}

}  // namespace mini_engine::gpu
