#include "two_kernels.hpp"

#include <cuda_bf16.h>

namespace pikv_bench {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;

__device__ void load_vector(const __nv_bfloat16* p, float (&values)[kVector]) {
  const uint4 words = *reinterpret_cast<const uint4*>(p);
  const std::uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(pairs[i] << 16);
    values[2 * i + 1] = __uint_as_float(pairs[i] & 0xFFFF0000U);
  }
}

__device__ void store_vector(__nv_bfloat16* p, const float (&values)[kVector]) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    words[i] = reinterpret_cast<const std::uint32_t&>(pair);
  }
  *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
}

/// A thread makes one vector of a turned row: it loads its own channels and their partners, half a head away.
__global__ __launch_bounds__(kThreads) void turn_keys(const __nv_bfloat16* __restrict__ keys,
                                                      __nv_bfloat16* __restrict__ out, const float* __restrict__ table,
                                                      std::int32_t first_position, std::int32_t num_tokens,
                                                      std::int32_t num_heads, std::int32_t head_dim) {
  const std::int32_t vectors = head_dim / kVector;
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t row = i / vectors;
  if (row >= std::int64_t{num_tokens} * num_heads) return;
  const std::int32_t channel = static_cast<std::int32_t>(i % vectors) * kVector;
  const std::int32_t half = head_dim / 2;
  const bool is_first = channel < half;
  const __nv_bfloat16* const head = keys + row * head_dim;
  float own[kVector];
  float partner[kVector];
  load_vector(head + channel, own);
  load_vector(head + (is_first ? channel + half : channel - half), partner);
  const float* const cos =
      table + (first_position + row / num_heads) * head_dim + (is_first ? channel : channel - half);
  const float* const sin = cos + half;
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    own[j] = own[j] * cos[j] + (is_first ? -partner[j] : partner[j]) * sin[j];
  }
  store_vector(out + row * head_dim + channel, own);
}

/// A thread moves one vector of keys and one of values.
__global__ __launch_bounds__(kThreads) void append_pages(const uint4* __restrict__ keys,
                                                         const uint4* __restrict__ values, uint4* __restrict__ k_pages,
                                                         uint4* __restrict__ v_pages,
                                                         const std::int32_t* __restrict__ pages,
                                                         std::int32_t num_tokens, std::int32_t row_vectors,
                                                         std::int32_t page_size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t token = i / row_vectors;
  if (token >= num_tokens) return;
  const std::int64_t slot = std::int64_t{pages[token / page_size]} * page_size + token % page_size;
  const std::int64_t to = slot * row_vectors + i % row_vectors;
  k_pages[to] = keys[i];
  v_pages[to] = values[i];
}

}  // namespace

cudaError_t run_two_kernels(const TwoKernels& job, cudaStream_t stream) {
  const std::int64_t row_vectors = std::int64_t{job.num_heads} * job.head_dim / kVector;
  const auto blocks = static_cast<unsigned>((job.num_tokens * row_vectors + kThreads - 1) / kThreads);
  for (std::int32_t layer = 0; layer < job.num_layers; ++layer) {
    const auto* const keys = static_cast<const __nv_bfloat16*>(job.keys) + layer * job.layer_elements;
    const auto* const values = static_cast<const __nv_bfloat16*>(job.values) + layer * job.layer_elements;
    auto* const turned = static_cast<__nv_bfloat16*>(job.turned_keys);
    turn_keys<<<blocks, kThreads, 0, stream>>>(keys, turned, job.table, job.first_position, job.num_tokens,
                                               job.num_heads, job.head_dim);
    append_pages<<<blocks, kThreads, 0, stream>>>(
        reinterpret_cast<const uint4*>(turned), reinterpret_cast<const uint4*>(values),
        reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(job.k_pages) + layer * job.page_layer_elements),
        reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(job.v_pages) + layer * job.page_layer_elements), job.pages,
        job.num_tokens, static_cast<std::int32_t>(row_vectors), job.page_size);
  }
  return cudaGetLastError();
}

}  // namespace pikv_bench
