#include "flashinfer_kernels.hpp"

#ifdef PIKV_BENCH_FLASHINFER
#include <cuda_bf16.h>

#include <flashinfer/page.cuh>
#include <flashinfer/pos_enc.cuh>
#endif

namespace pikv_bench {

#ifdef PIKV_BENCH_FLASHINFER

bool has_flashinfer() noexcept { return true; }

cudaError_t run_flashinfer(const TwoKernels& job, const FlashInferIndices& indices, cudaStream_t stream) {
  const auto num_tokens = static_cast<std::uint32_t>(job.num_tokens);
  const auto num_heads = static_cast<std::uint32_t>(job.num_heads);
  const auto head_dim = static_cast<std::uint32_t>(job.head_dim);
  const std::size_t row = std::size_t{num_heads} * head_dim;
  auto* const turned = static_cast<__nv_bfloat16*>(job.turned_keys);
  for (std::int32_t layer = 0; layer < job.num_layers; ++layer) {
    // FlashInfer's signatures are not const; it does not write to these.
    auto* const keys =
        const_cast<__nv_bfloat16*>(static_cast<const __nv_bfloat16*>(job.keys)) + layer * job.layer_elements;
    auto* const values =
        const_cast<__nv_bfloat16*>(static_cast<const __nv_bfloat16*>(job.values)) + layer * job.layer_elements;
    if (const cudaError_t error = flashinfer::BatchQKApplyRotaryPosIdsCosSinCache<__nv_bfloat16, std::int32_t>(
            keys, keys, turned, turned, const_cast<float*>(job.table), indices.position_ids, num_tokens,
            /*num_qo_heads=*/0, num_heads, /*rotary_dim=*/head_dim, head_dim, row, head_dim, row, head_dim, row,
            head_dim, row, head_dim, /*interleave=*/false, stream);
        error != cudaSuccess) {
      return error;
    }
    const flashinfer::paged_kv_t<__nv_bfloat16, std::int32_t> pages(
        num_heads, static_cast<std::uint32_t>(job.page_size), head_dim, /*batch_size=*/1, flashinfer::QKVLayout::kNHD,
        static_cast<__nv_bfloat16*>(job.k_pages) + layer * job.page_layer_elements,
        static_cast<__nv_bfloat16*>(job.v_pages) + layer * job.page_layer_elements,
        const_cast<std::int32_t*>(job.pages), indices.page_begins, indices.last_page_len);
    if (const cudaError_t error = flashinfer::AppendPagedKVCache<__nv_bfloat16, std::int32_t>(
            pages, turned, values, indices.batch_indices, indices.positions, num_tokens, row, head_dim, row, head_dim,
            stream);
        error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

#else

bool has_flashinfer() noexcept { return false; }

cudaError_t run_flashinfer(const TwoKernels& /*job*/, const FlashInferIndices& /*indices*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

#endif

}  // namespace pikv_bench
