// Attention by m16n8k16 products. A block of four warps takes 64 stacked rows (rows of one sequence times the query
// heads of one KV head) against 64 keys at a time, gathered out of the pages into a ring of two stages while the stage
// before is computed on. Scores stay in registers; the softmax is the online one of FlashAttention-2 (Dao, 2023).
#include <cuda_bf16.h>

#include "attention_kernels.hpp"

namespace mini_engine::gpu {
namespace {

constexpr int kWarps = kTileRows / 16;
constexpr int kThreads = kWarps * 32;
constexpr int kStages = 2;
constexpr int kChunk = 8;  // elements of 16 bytes

/// Rows of a tile in shared memory, 16-byte chunks permuted within a row so that eight rows of one chunk lie in eight
/// different groups of banks.
template <int kHeadDim>
struct Tile {
  static constexpr int kChunks = kHeadDim / kChunk;
  static __device__ int offset(int row, int chunk) { return (row * kChunks + (chunk ^ (row % 8))) * kChunk; }
};

__device__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// 16 bytes, or zeros.
__device__ void copy_async(void* target, const void* source, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
               "r"(is_there ? 16 : 0));
}
__device__ void commit() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

struct Fragments {
  std::uint32_t words[4];
};
__device__ Fragments load_matrices(const __nv_bfloat16* p) {
  Fragments f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.words[0]), "=r"(f.words[1]), "=r"(f.words[2]), "=r"(f.words[3])
               : "r"(shared_address(p)));
  return f;
}
__device__ Fragments load_matrices_transposed(const __nv_bfloat16* p) {
  Fragments f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.words[0]), "=r"(f.words[1]), "=r"(f.words[2]), "=r"(f.words[3])
               : "r"(shared_address(p)));
  return f;
}
__device__ void multiply_add(float (&c)[4], const Fragments& a, std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b0), "r"(b1));
}
__device__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}
__device__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0U, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0U, value, 2));
}
__device__ float quad_sum(float value) {
  value += __shfl_xor_sync(~0U, value, 1);
  return value + __shfl_xor_sync(~0U, value, 2);
}

/// Keys [first, first + 64) of the sequence and their values into a stage; those from `end` on as zeros.
template <int kHeadDim>
__device__ void load_keys(const AttentionParams& params, const AttentionSequence& sequence, std::int32_t kv_head,
                          std::int32_t first, std::int32_t end, __nv_bfloat16* keys, __nv_bfloat16* values) {
  constexpr int kChunks = kHeadDim / kChunk;
  constexpr int kRowsAtOnce = kThreads / kChunks;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const auto page_size = static_cast<std::uint32_t>(params.cache.page_size);
  const auto* const cache =
      static_cast<const __nv_bfloat16*>(params.cache.data) + kv_head * params.cache.head_stride + chunk * kChunk;
#pragma unroll
  for (int i = 0; i < kTileKeys / kRowsAtOnce; ++i) {
    const int row = static_cast<int>(threadIdx.x) / kChunks + i * kRowsAtOnce;
    const bool is_there = first + row < end;
    const auto key = static_cast<std::uint32_t>(is_there ? first + row : 0);
    const std::int64_t page = params.batch.pages[sequence.first_page + static_cast<std::int32_t>(key / page_size)];
    const __nv_bfloat16* const source =
        cache + page * params.cache.page_stride + key % page_size * params.cache.token_stride;
    copy_async(keys + Tile<kHeadDim>::offset(row, chunk), source, is_there);
    copy_async(values + Tile<kHeadDim>::offset(row, chunk), source + params.cache.value_offset, is_there);
  }
}

template <int kHeadDim>
__global__ __launch_bounds__(kThreads) void attend(const __grid_constant__ AttentionParams params) {
  constexpr int kSteps = kHeadDim / 16;
  constexpr int kTileElements = kTileKeys * kHeadDim;
  extern __shared__ __align__(128) __nv_bfloat16 shared[];
  __nv_bfloat16* const query_tile = shared;
  const auto key_stage = [&](int stage) { return shared + kTileRows * kHeadDim + 2 * stage * kTileElements; };

  const HeadSizes& sizes = params.sizes;
  const std::int32_t group = sizes.num_heads / sizes.num_kv_heads;
  const auto kv_head = static_cast<std::int32_t>(blockIdx.y);
  const AttentionSequence sequence = params.batch.sequences[params.tiles[2 * blockIdx.x]];
  const std::int32_t first_row = params.tiles[2 * blockIdx.x + 1];
  const std::int32_t num_rows = min(params.rows_per_tile, sequence.num_rows - first_row);
  const std::int32_t* const positions = params.batch.positions + sequence.first_row + first_row;
  const std::int32_t* const documents =
      sequence.first_document < 0 ? nullptr : params.batch.documents + sequence.first_document;
  const std::int32_t num_keys = positions[num_rows - 1] + 1;
  const std::int32_t num_key_tiles = (num_keys + kTileKeys - 1) / kTileKeys;
  const auto split = static_cast<std::int32_t>(blockIdx.z);
  const std::int32_t begin = num_key_tiles * split / params.num_splits;
  const std::int32_t end = num_key_tiles * (split + 1) / params.num_splits;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto warp = static_cast<int>(threadIdx.x / 32);

  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * (kHeadDim / kChunk); i += kThreads) {
    const int stacked = i / (kHeadDim / kChunk);
    const int chunk = i % (kHeadDim / kChunk);
    const bool is_there = stacked < num_rows * group;
    const std::int64_t row = sequence.first_row + first_row + (is_there ? stacked / group : 0);
    const auto* const source = static_cast<const __nv_bfloat16*>(params.queries) + row * params.query_stride +
                               (kv_head * group + stacked % group) * kHeadDim + chunk * kChunk;
    copy_async(query_tile + Tile<kHeadDim>::offset(stacked, chunk), source, is_there);
  }
  if (begin < end) {
    load_keys<kHeadDim>(params, sequence, kv_head, begin * kTileKeys, num_keys, key_stage(0),
                        key_stage(0) + kTileElements);
  }
  commit();

  // The two rows of this thread.
  std::int32_t row_of[2];
  std::int32_t position_of[2];
  std::int32_t document_of[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int stacked = warp * 16 + lane / 4 + 8 * i;
    row_of[i] = min(stacked / group, num_rows - 1);
    position_of[i] = positions[row_of[i]];
    document_of[i] = documents == nullptr ? -1 : documents[position_of[i]];
  }
  const std::int32_t first_position = positions[0];

  float sums[kHeadDim / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY};
  float weight_sum[2] = {0, 0};
  Fragments queries[kSteps];
  const float to_log2 = 1.4426950408889634F * rsqrtf(static_cast<float>(kHeadDim));

  for (std::int32_t tile = begin; tile < end; ++tile) {
    const int stage = (tile - begin) % kStages;
    __nv_bfloat16* const keys = key_stage(stage);
    __nv_bfloat16* const values = keys + kTileElements;
    if (tile + 1 < end) {
      __nv_bfloat16* const next = key_stage((stage + 1) % kStages);
      load_keys<kHeadDim>(params, sequence, kv_head, (tile + 1) * kTileKeys, num_keys, next, next + kTileElements);
    }
    commit();
    wait<1>();
    __syncthreads();
    if (tile == begin) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        queries[step] = load_matrices(query_tile + Tile<kHeadDim>::offset(warp * 16 + lane % 16, step * 2 + lane / 16));
      }
    }

    float scores[kTileKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int pair = 0; pair < kTileKeys / 16; ++pair) {
        const Fragments b =
            load_matrices(keys + Tile<kHeadDim>::offset(pair * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
        multiply_add(scores[2 * pair], queries[step], b.words[0], b.words[1]);
        multiply_add(scores[2 * pair + 1], queries[step], b.words[2], b.words[3]);
      }
    }

    const std::int32_t first_key = tile * kTileKeys;
    if (documents != nullptr || first_key + kTileKeys - 1 > first_position) {
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const std::int32_t key = first_key + n * 8 + lane % 4 * 2 + j % 2;
          bool is_hidden = key > position_of[j / 2];
          if (documents != nullptr && !is_hidden && document_of[j / 2] >= 0) {
            is_hidden = documents[key] != document_of[j / 2];
          }
          if (is_hidden) scores[n][j] = -INFINITY;
        }
      }
    }

#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float tile_largest = largest[i];
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
        tile_largest = fmaxf(tile_largest, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
      }
      tile_largest = quad_max(tile_largest);
      const float base = tile_largest == -INFINITY ? 0.0F : tile_largest * to_log2;
      const float shrink = exp2f(largest[i] * to_log2 - base);
      largest[i] = tile_largest;
      float tile_sum = 0;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
        scores[n][2 * i] = exp2f(scores[n][2 * i] * to_log2 - base);
        scores[n][2 * i + 1] = exp2f(scores[n][2 * i + 1] * to_log2 - base);
        tile_sum += scores[n][2 * i] + scores[n][2 * i + 1];
      }
      weight_sum[i] = weight_sum[i] * shrink + tile_sum;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
        sums[d][2 * i] *= shrink;
        sums[d][2 * i + 1] *= shrink;
      }
    }

#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step) {
      const Fragments weights{{pack(scores[2 * step][0], scores[2 * step][1]),
                               pack(scores[2 * step][2], scores[2 * step][3]),
                               pack(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                               pack(scores[2 * step + 1][2], scores[2 * step + 1][3])}};
#pragma unroll
      for (int pair = 0; pair < kHeadDim / 16; ++pair) {
        const Fragments b = load_matrices_transposed(
            values + Tile<kHeadDim>::offset(step * 16 + lane / 8 % 2 * 8 + lane % 8, pair * 2 + lane / 16));
        multiply_add(sums[2 * pair], weights, b.words[0], b.words[1]);
        multiply_add(sums[2 * pair + 1], weights, b.words[2], b.words[3]);
      }
    }
    __syncthreads();  // the stage is free
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = quad_sum(weight_sum[i]);
    const int stacked = warp * 16 + lane / 4 + 8 * i;
    if (stacked >= num_rows * group) continue;
    const float factor = sum > 0 ? 1.0F / sum : 0.0F;
    const std::int64_t row = sequence.first_row + first_row + stacked / group;
    const std::int64_t head = row * sizes.num_heads + kv_head * group + stacked % group;
    if (params.num_splits == 1) {
      auto* const out = static_cast<__nv_bfloat16*>(params.out) + head * kHeadDim + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
        *reinterpret_cast<std::uint32_t*>(out + d * 8) = pack(sums[d][2 * i] * factor, sums[d][2 * i + 1] * factor);
      }
      continue;
    }
    const std::int64_t at = split * params.num_rows * sizes.num_heads + head;
    float* const out = params.partial_outputs + at * kHeadDim + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      *reinterpret_cast<float2*>(out + d * 8) = make_float2(sums[d][2 * i] * factor, sums[d][2 * i + 1] * factor);
    }
    if (lane % 4 == 0) {
      params.partial_lses[at] = sum > 0 ? largest[i] * rsqrtf(static_cast<float>(kHeadDim)) + logf(sum) : -INFINITY;
    }
  }
}

template <int kHeadDim>
cudaError_t launch(const AttentionParams& params, cudaStream_t stream) {
  constexpr int kSharedBytes =
      (kTileRows + 2 * kStages * kTileKeys) * kHeadDim * static_cast<int>(sizeof(__nv_bfloat16));
  if (const cudaError_t error =
          cudaFuncSetAttribute(attend<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
      error != cudaSuccess) {
    return error;
  }
  const dim3 grid(static_cast<unsigned>(params.num_tiles), static_cast<unsigned>(params.sizes.num_kv_heads),
                  static_cast<unsigned>(params.num_splits));
  attend<kHeadDim><<<grid, kThreads, kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_attention_tensor_cores(const AttentionParams& params, cudaStream_t stream) {
  return params.sizes.head_dim == 128 ? launch<128>(params, stream) : launch<64>(params, stream);
}

}  // namespace mini_engine::gpu
