// Attention of many rows by warpgroup products, after FlashAttention-3 (Shah et al., 2024). A block takes 128 stacked
// rows: one warpgroup gathers tiles of 128 keys out of the pages into a ring of two stages, two others compute on 64
// rows each. The scores of a tile are computed while the values of the tile before are summed, so that the tensor cores
// work on while the softmax does.
#include "attention_tiles.cuh"
#include "launch.cuh"
#include "warpgroup.cuh"

namespace mini_engine::gpu {
namespace {

using namespace tiles;
namespace wg = warpgroup;

constexpr int kStages = 2;
constexpr int kConsumers = kWideTile.rows / 64;
constexpr int kThreads = (1 + kConsumers) * wg::kThreads;
constexpr int kTileKeys = kWideTile.keys;
constexpr int kKeyBlocks = kTileKeys / 8;
// Of the 168 that each thread of a block of this size starts with, one warpgroup gives what the others take.
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;

/// Dynamic shared memory of a block. Tiles are split into slabs of 64 channels, as products read them.
template <int kHeadDim>
struct Shared {
  static constexpr int kSlabs = kHeadDim / wg::kRowElements;
  using KeySlab = __nv_bfloat16[kTileKeys * wg::kRowElements];

  __nv_bfloat16 queries[kSlabs][kWideTile.rows * wg::kRowElements];
  KeySlab keys[kStages][kSlabs];
  KeySlab values[kStages][kSlabs];
  wg::Barrier keys_full[kStages];
  wg::Barrier keys_empty[kStages];
  wg::Barrier values_full[kStages];
  wg::Barrier values_empty[kStages];
};

/// Which place of the ring, and the parity of its barriers' phase.
struct Turn {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    stage = stage + 1 == kStages ? 0 : stage + 1;
    parity ^= stage == 0 ? 1U : 0U;
  }
};

/// Gathers the tiles of a block, keys first. A thread copies one chunk of every kRowsAtOnce-th row; the lanes of a row
/// share the look-ups of its pages.
template <int kHeadDim>
__device__ void gather(const AttentionParams& params, const Work& work, Shared<kHeadDim>& shared) {
  constexpr int kChunks = kHeadDim / kChunk;
  constexpr int kRowsAtOnce = wg::kThreads / kChunks;
  constexpr int kRows = kTileKeys / kRowsAtOnce;  // of a thread
  static_assert(kRows <= kChunks);
  const int thread = static_cast<int>(threadIdx.x) % wg::kThreads;
  const int chunk = thread % kChunks;
  const int first_row = thread / kChunks;
  const int slab = chunk / 8;
  const auto* const cache =
      static_cast<const __nv_bfloat16*>(params.cache.data) + work.kv_head * params.cache.head_stride + chunk * kChunk;
  Turn turn;
  for (std::int32_t tile = work.begin; tile < work.end; ++tile, turn.advance()) {
    const std::int32_t own_key = tile * kTileKeys + first_row + chunk % kRows * kRowsAtOnce;
    const std::int64_t own_offset = own_key < work.num_keys ? key_offset(params, work, own_key) : std::int64_t{-1};
    const auto copy_rows = [&](__nv_bfloat16* target, std::int64_t base) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const std::int64_t offset = __shfl_sync(~0U, own_offset, i, kChunks);
        const bool is_there = offset >= 0;
        copy_async(target + wg::swizzled(first_row + i * kRowsAtOnce, chunk % 8),
                   cache + (is_there ? offset + base : 0), is_there);
      }
    };
    shared.keys_empty[turn.stage].wait(turn.parity ^ 1U);
    copy_rows(shared.keys[turn.stage][slab], 0);
    shared.keys_full[turn.stage].arrive_after_copies();
    shared.values_empty[turn.stage].wait(turn.parity ^ 1U);
    copy_rows(shared.values[turn.stage][slab], params.cache.value_offset);
    shared.values_full[turn.stage].arrive_after_copies();
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// This warpgroup's 64 stacked rows of queries.
template <int kHeadDim>
__device__ void load_queries(const AttentionParams& params, const Work& work, int first_stacked,
                             Shared<kHeadDim>& shared) {
  constexpr int kChunks = kHeadDim / kChunk;
  for (int i = static_cast<int>(threadIdx.x) % wg::kThreads; i < 64 * kChunks; i += wg::kThreads) {
    const int stacked = first_stacked + i / kChunks;
    const int chunk = i % kChunks;
    const bool is_there = work.has(stacked);
    copy_async(shared.queries[chunk / 8] + wg::swizzled(stacked, chunk % 8),
               static_cast<const __nv_bfloat16*>(params.queries) + work.query_offset(params, is_there ? stacked : 0) +
                   chunk * kChunk,
               is_there);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  wg::fence_shared();
  asm volatile("bar.sync %0, %1;" ::"r"(1 + first_stacked / 64), "n"(wg::kThreads) : "memory");
}

template <int kHeadDim>
__device__ void score(std::uint32_t queries, std::uint32_t keys, float (&scores)[kKeyBlocks][4]) {
  constexpr std::uint32_t kStepBytes = 32;  // 16 channels
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const std::uint32_t slab = step / 4;
    const std::uint32_t within = step % 4 * kStepBytes;
    wg::multiply(scores, wg::descriptor(queries + slab * sizeof(Shared<kHeadDim>::queries[0]) + within),
                 wg::descriptor(keys + slab * sizeof(typename Shared<kHeadDim>::KeySlab) + within), step > 0);
  }
}

template <int kHeadDim>
__device__ void add_values(const std::uint32_t (&weights)[kKeyBlocks / 2][4], std::uint32_t values,
                           float (&sums)[kHeadDim / 8][4]) {
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
    wg::multiply_add(sums, weights[step],
                     wg::descriptor(values + step * 2 * wg::kGroupBytes,
                                    static_cast<std::uint32_t>(sizeof(typename Shared<kHeadDim>::KeySlab))));
  }
}

__device__ void to_operand(const float (&scores)[kKeyBlocks][4], std::uint32_t (&weights)[kKeyBlocks / 2][4]) {
#pragma unroll
  for (int n = 0; n < kKeyBlocks; ++n) {
    weights[n / 2][n % 2 * 2] = pack(scores[n][0], scores[n][1]);
    weights[n / 2][n % 2 * 2 + 1] = pack(scores[n][2], scores[n][3]);
  }
}

template <int kHeadDim>
__device__ void attend_rows(const AttentionParams& params, const Work& work, int consumer, Shared<kHeadDim>& shared) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto warp = static_cast<int>(threadIdx.x / 32 % 4);
  load_queries(params, work, consumer * 64, shared);
  const std::int32_t first_stacked = consumer * 64 + warp * 16 + lane / 4;
  const Visibility visibility(params, work, first_stacked);
  OnlineSoftmax<kHeadDim> softmax;
  float sums[kHeadDim / 8][4] = {};
  const std::uint32_t queries = shared_address(shared.queries[0] + consumer * 64 * wg::kRowElements);
  const auto release = [&](wg::Barrier& barrier) {
    if (lane == 0) barrier.arrive();
  };

  float scores[kKeyBlocks][4];
  std::uint32_t weights[kKeyBlocks / 2][4];
  float shrink[2];
  Turn keys;    // of the tile whose scores are computed
  Turn values;  // of the tile before
  if (work.begin < work.end) {
    shared.keys_full[keys.stage].wait(keys.parity);
    wg::fence_shared();
    wg::begin_products();
    score<kHeadDim>(queries, shared_address(shared.keys[keys.stage]), scores);
    wg::commit_products();
    wg::wait_products<0>();
    release(shared.keys_empty[keys.stage]);
    keys.advance();
    visibility.mask(scores, work.begin * kTileKeys);
    softmax.update(scores, shrink);
    to_operand(scores, weights);

    for (std::int32_t tile = work.begin + 1; tile < work.end; ++tile) {
      shared.keys_full[keys.stage].wait(keys.parity);
      wg::fence_shared();
      wg::begin_products();
      score<kHeadDim>(queries, shared_address(shared.keys[keys.stage]), scores);
      wg::commit_products();
      shared.values_full[values.stage].wait(values.parity);
      wg::fence_shared();
      wg::begin_products();
      add_values<kHeadDim>(weights, shared_address(shared.values[values.stage]), sums);
      wg::commit_products();
      wg::wait_products<1>();
      release(shared.keys_empty[keys.stage]);
      keys.advance();
      visibility.mask(scores, tile * kTileKeys);
      softmax.update(scores, shrink);
      wg::wait_products<0>();
      release(shared.values_empty[values.stage]);
      values.advance();
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[d][j] *= shrink[j / 2];
      }
      to_operand(scores, weights);
    }

    shared.values_full[values.stage].wait(values.parity);
    wg::fence_shared();
    wg::begin_products();
    add_values<kHeadDim>(weights, shared_address(shared.values[values.stage]), sums);
    wg::commit_products();
    wg::wait_products<0>();
  }
  write_rows<kHeadDim>(params, work, first_stacked, sums, softmax);
}

template <int kHeadDim>
__global__ __launch_bounds__(kThreads, 1) void attend_wide(const __grid_constant__ AttentionParams params) {
  extern __shared__ __align__(1024) std::byte memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      shared.keys_full[stage].initialize(wg::kThreads);
      shared.values_full[stage].initialize(wg::kThreads);
      shared.keys_empty[stage].initialize(kConsumers * 4);  // a warp arrives once
      shared.values_empty[stage].initialize(kConsumers * 4);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  const Work work(params, static_cast<std::int32_t>(blockIdx.x), static_cast<std::int32_t>(blockIdx.y));
  if (work.num_rows == 0) return;
  let_next_kernel_start();
  wait_for_kernels_before();
  const int warpgroup_index = static_cast<int>(threadIdx.x) / wg::kThreads;
  if (warpgroup_index == 0) {
    wg::give_registers<kProducerRegisters>();
    gather(params, work, shared);
  } else {
    wg::take_registers<kConsumerRegisters>();
    attend_rows(params, work, warpgroup_index - 1, shared);
  }
}

template <int kHeadDim>
void launch_with(const AttentionParams& params, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(sizeof(Shared<kHeadDim>));
  check(cudaFuncSetAttribute(attend_wide<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "attention");
  const dim3 grid(static_cast<unsigned>(params.num_items), static_cast<unsigned>(params.sizes.num_kv_heads));
  launch("attention", attend_wide<kHeadDim>, grid, kThreads, kSharedBytes, stream, params);
}

}  // namespace

void launch_attention_wide(const AttentionParams& params, cudaStream_t stream) {
  params.sizes.head_dim == 128 ? launch_with<128>(params, stream) : launch_with<64>(params, stream);
}

}  // namespace mini_engine::gpu
