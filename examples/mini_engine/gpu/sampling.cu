#include "sampling.hpp"

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "launch.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kParts = 32;  // blocks that look for the greatest logit of a row
constexpr int kPartThreads = 256;
constexpr int kThreads = 1024;
constexpr std::int32_t kNoIndex = 0x7FFFFFFF;

struct Greatest {
  float value = -INFINITY;
  std::int32_t index = kNoIndex;
  std::int32_t bad = kNoIndex;
};

struct TakeGreater {
  __device__ Greatest operator()(const Greatest& a, const Greatest& b) const {
    const bool is_b = b.value > a.value || (b.value == a.value && b.index < a.index);
    return {is_b ? b.value : a.value, is_b ? b.index : a.index, min(a.bad, b.bad)};
  }
};

__global__ __launch_bounds__(kPartThreads) void find_greatest(const float* logits, std::int64_t vocab_size,
                                                              Greatest* parts) {
  using Reduce = cub::BlockReduce<Greatest, kPartThreads>;
  __shared__ typename Reduce::TempStorage memory;
  let_next_kernel_start();
  wait_for_kernels_before();
  const float* const row = logits + blockIdx.y * vocab_size;
  Greatest greatest;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kPartThreads + threadIdx.x; i < vocab_size;
       i += kParts * kPartThreads) {
    const float value = row[i];
    const auto index = static_cast<std::int32_t>(i);
    if (isnan(value) || value == INFINITY) {
      greatest.bad = min(greatest.bad, index);
    } else if (value > greatest.value) {
      greatest.value = value;
      greatest.index = index;
    }
  }
  greatest = Reduce(memory).Reduce(greatest, TakeGreater{});
  if (threadIdx.x == 0) parts[blockIdx.y * kParts + blockIdx.x] = greatest;
}

/// Of all threads of the block, in each of them.
class BlockSum {
  using Reduce = cub::BlockReduce<double, kThreads>;

 public:
  struct Memory {
    typename Reduce::TempStorage reduce;
    double sum;
  };
  static __device__ double of(double value, Memory& memory) {
    const double sum = Reduce(memory.reduce).Sum(value);
    if (threadIdx.x == 0) memory.sum = sum;
    __syncthreads();
    const double all = memory.sum;
    __syncthreads();
    return all;
  }
};

/// A row's weights relative to its greatest logit; each thread has ids [begin, end).
struct Weights {
  const float* row;
  float greatest;
  float temperature;
  std::int64_t begin;
  std::int64_t end;

  __device__ float at(std::int64_t i) const { return expf((row[i] - greatest) / temperature); }

  /// Of this thread's weights, those of at least `least`.
  __device__ double sum_from(float least) const {
    double sum = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const float weight = at(i);
      if (weight >= least) sum += weight;
    }
    return sum;
  }
};

__device__ float next_above(float weight) { return __uint_as_float(__float_as_uint(weight) + 1); }

/// A block a row.
__global__ __launch_bounds__(kThreads) void draw_tokens(const float* logits, std::int64_t vocab_size, const Draw* draws,
                                                        const Greatest* parts, Drawn* drawn) {
  using ScanCount = cub::BlockScan<std::int32_t, kThreads>;
  using ScanSum = cub::BlockScan<double, kThreads>;
  __shared__ union {
    BlockSum::Memory sum;
    typename ScanCount::TempStorage count;
    typename ScanSum::TempStorage scan;
  } memory;
  let_next_kernel_start();
  wait_for_kernels_before();
  const Draw draw = draws[blockIdx.x];
  Greatest greatest;
  for (int i = 0; i < kParts; ++i) greatest = TakeGreater{}(greatest, parts[blockIdx.x * kParts + i]);
  if (threadIdx.x == 0) {
    drawn[blockIdx.x] = {.token = static_cast<TokenId>(greatest.index == kNoIndex ? 0 : greatest.index),
                         .bad_logit = greatest.bad == kNoIndex ? Drawn::kNone : greatest.bad,
                         .is_empty = greatest.index == kNoIndex};
  }
  if (draw.temperature == 0 || greatest.bad != kNoIndex || greatest.index == kNoIndex) return;

  const std::int64_t share = (vocab_size + kThreads - 1) / kThreads;
  const Weights weights{.row = logits + blockIdx.x * vocab_size,
                        .greatest = greatest.value,
                        .temperature = draw.temperature,
                        .begin = min(threadIdx.x * share, vocab_size),
                        .end = min((threadIdx.x + 1) * share, vocab_size)};
  // Kept are all weights above `least`, and the first `num_equal` ids of that very weight.
  float least = 0;
  std::int32_t num_equal = kNoIndex;
  if (draw.top_p < 1) {
    const double wanted = BlockSum::of(weights.sum_from(0), memory.sum) * draw.top_p;
    std::uint32_t low = 0;  // weights from here on suffice; bits of positive numbers are in their order
    std::uint32_t high = __float_as_uint(1.0F) + 1;  // weights from here on do not
    while (high - low > 1) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (BlockSum::of(weights.sum_from(__uint_as_float(middle)), memory.sum) >= wanted) {
        low = middle;
      } else {
        high = middle;
      }
    }
    least = __uint_as_float(low);
    const double above = BlockSum::of(weights.sum_from(next_above(least)), memory.sum);
    num_equal = least > 0 ? max(static_cast<std::int32_t>(ceil((wanted - above) / least)), 1) : kNoIndex;
  }

  std::int32_t own_equal = 0;
  for (std::int64_t i = weights.begin; i < weights.end; ++i) own_equal += weights.at(i) == least ? 1 : 0;
  std::int32_t equal_before = 0;
  ScanCount(memory.count).ExclusiveSum(own_equal, equal_before);
  __syncthreads();
  const auto for_kept = [&](auto&& call) {
    std::int32_t rank = equal_before;
    for (std::int64_t i = weights.begin; i < weights.end; ++i) {
      const float weight = weights.at(i);
      if (weight > least || (weight == least && weight > 0 && rank++ < num_equal)) call(i, weight);
    }
  };
  double own_sum = 0;
  for_kept([&](std::int64_t, float weight) { own_sum += weight; });
  double sum_before = 0;
  double sum = 0;
  ScanSum(memory.scan).ExclusiveSum(own_sum, sum_before, sum);
  __syncthreads();
  const double place = sum * draw.fraction;
  if (own_sum == 0 || place < sum_before || place >= sum_before + own_sum) return;  // rounding: the greatest stays
  double rest = place - sum_before;
  std::int64_t last = 0;
  bool is_found = false;
  for_kept([&](std::int64_t i, float weight) {
    if (is_found) return;
    last = i;
    is_found = rest < weight;
    rest -= weight;
  });
  drawn[blockIdx.x].token = static_cast<TokenId>(last);
}

}  // namespace

std::vector<Drawn> Sampling::operator()(const float* logits, std::int64_t vocab_size, std::span<const Draw> draws,
                                        cudaStream_t stream) {
  std::vector<Drawn> drawn(draws.size());
  if (draws.empty()) return drawn;
  const auto num_rows = static_cast<unsigned>(draws.size());
  upload(draws_, draws, stream);
  parts_.grow(draws.size() * kParts * sizeof(Greatest));
  drawn_.grow(draws.size() * sizeof(Drawn));
  launch("sampling", find_greatest, dim3(kParts, num_rows), kPartThreads, 0, stream, logits, vocab_size,
         parts_.as<Greatest>());
  launch("sampling", draw_tokens, num_rows, kThreads, 0, stream, logits, vocab_size, draws_.as<Draw>(),
         parts_.as<Greatest>(), drawn_.as<Drawn>());
  check(cudaMemcpyAsync(drawn.data(), drawn_.as<void>(), drawn.size() * sizeof(Drawn), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "sampling");
  return drawn;
}

}  // namespace mini_engine::gpu
