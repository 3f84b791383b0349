// Attention of few rows by m16n8k16 products. A block of four warps takes 64 stacked rows (rows of one sequence times
// the query heads of one KV head) against 64 keys at a time, gathered out of the pages into a ring of two stages while
// the stage before is computed on. Scores stay in registers.
#include "attention_tiles.cuh"
#include "launch.cuh"

namespace mini_engine::gpu {
namespace {

using namespace tiles;

constexpr int kWarps = kNarrowTile.rows / 16;
constexpr int kThreads = kWarps * 32;
constexpr int kStages = 2;
constexpr int kTileRows = kNarrowTile.rows;
constexpr int kTileKeys = kNarrowTile.keys;

/// Rows of a tile in shared memory, 16-byte chunks permuted within a row so that eight rows of one chunk lie in eight
/// different groups of banks.
template <int kHeadDim>
struct Tile {
  static constexpr int kChunks = kHeadDim / kChunk;
  static __device__ int offset(int row, int chunk) { return (row * kChunks + (chunk ^ (row % 8))) * kChunk; }
};

__device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
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

/// Keys [first, first + 64) of the sequence and their values into a stage; those that no row sees as zeros.
template <int kHeadDim>
__device__ void load_keys(const AttentionParams& params, const Work& work, std::int32_t first, __nv_bfloat16* keys,
                          __nv_bfloat16* values) {
  constexpr int kChunks = kHeadDim / kChunk;
  constexpr int kRowsAtOnce = kThreads / kChunks;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const auto* const cache =
      static_cast<const __nv_bfloat16*>(params.cache.data) + work.kv_head * params.cache.head_stride + chunk * kChunk;
#pragma unroll
  for (int i = 0; i < kTileKeys / kRowsAtOnce; ++i) {
    const int row = static_cast<int>(threadIdx.x) / kChunks + i * kRowsAtOnce;
    const bool is_there = first + row < work.num_keys;
    const __nv_bfloat16* const source = cache + key_offset(params, work, is_there ? first + row : 0);
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

  const Work work(params, static_cast<std::int32_t>(blockIdx.x), static_cast<std::int32_t>(blockIdx.y));
  if (work.num_rows == 0) return;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto warp = static_cast<int>(threadIdx.x / 32);
  let_next_kernel_start();
  wait_for_kernels_before();

  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * (kHeadDim / kChunk); i += kThreads) {
    const int stacked = i / (kHeadDim / kChunk);
    const int chunk = i % (kHeadDim / kChunk);
    const bool is_there = work.has(stacked);
    copy_async(query_tile + Tile<kHeadDim>::offset(stacked, chunk),
               static_cast<const __nv_bfloat16*>(params.queries) + work.query_offset(params, is_there ? stacked : 0) +
                   chunk * kChunk,
               is_there);
  }
  if (work.begin < work.end) {
    load_keys<kHeadDim>(params, work, work.begin * kTileKeys, key_stage(0), key_stage(0) + kTileElements);
  }
  commit();

  const std::int32_t first_stacked = warp * 16 + lane / 4;
  const Visibility visibility(params, work, first_stacked);
  OnlineSoftmax<kHeadDim> softmax;
  float sums[kHeadDim / 8][4] = {};
  Fragments queries[kSteps];

  for (std::int32_t tile = work.begin; tile < work.end; ++tile) {
    const int stage = (tile - work.begin) % kStages;
    __nv_bfloat16* const keys = key_stage(stage);
    __nv_bfloat16* const values = keys + kTileElements;
    if (tile + 1 < work.end) {
      __nv_bfloat16* const next = key_stage((stage + 1) % kStages);
      load_keys<kHeadDim>(params, work, (tile + 1) * kTileKeys, next, next + kTileElements);
    }
    commit();
    wait<1>();
    __syncthreads();
    if (tile == work.begin) {
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

    visibility.mask(scores, tile * kTileKeys);
    float shrink[2];
    softmax.update(scores, shrink);
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[d][j] *= shrink[j / 2];
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
  write_rows<kHeadDim>(params, work, first_stacked, sums, softmax);
}

template <int kHeadDim>
void launch_with(const AttentionParams& params, cudaStream_t stream) {
  constexpr int kSharedBytes =
      (kTileRows + 2 * kStages * kTileKeys) * kHeadDim * static_cast<int>(sizeof(__nv_bfloat16));
  check(cudaFuncSetAttribute(attend<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes), "attention");
  const dim3 grid(static_cast<unsigned>(params.num_items), static_cast<unsigned>(params.sizes.num_kv_heads));
  launch("attention", attend<kHeadDim>, grid, kThreads, kSharedBytes, stream, params);
}

}  // namespace

void launch_attention_narrow(const AttentionParams& params, cudaStream_t stream) {
  params.sizes.head_dim == 128 ? launch_with<128>(params, stream) : launch_with<64>(params, stream);
}

}  // namespace mini_engine::gpu
