// The mini engine on a GPU, Llama 3.1 8B shapes, random weights in bf16: what full recomputation costs, which every
// speed-up by reuse is measured against. Wall time of forward(), logits of the last row on the host included.
// prefill_cudnn is prefill with cuDNN's attention, where the build has it: a peer to hold the own attention against.
// Counters:
//   TFLOP/s   of the linear layers and of attention, causal work counted once
//   of_bound  decode: the time that reading the weights takes at the rate of a device-to-device copy, over the time
//   taken
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "harness.hpp"
#include "mini_engine/gpu/cudnn_attention.hpp"
#include "mini_engine/gpu/device.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/named_config.hpp"

namespace {

using mini_engine::AttentionKind;
using mini_engine::ModelConfig;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;
using mini_engine::gpu::DeviceBuffer;
using mini_engine::gpu::GpuModel;
using pikv_bench::median;
using pikv_bench::now;

constexpr int kPageSize = 16;
constexpr int kMostTokens = 16384 + 64;

struct World {
  AttentionKind attention;
  GpuModel model = GpuModel::random(mini_engine::named_config("llama3.1-8b"), 1,
                                    {.precision = Precision::kBFloat16, .attention = attention});
  mini_engine::PagedCache cache =
      mini_engine::gpu::make_device_cache(model.config(), Precision::kBFloat16, kMostTokens / kPageSize, kPageSize);
};

/// One at a time, since the weights fill much of a card. Never destroyed at the end, when the driver may be gone.
World& world(AttentionKind attention) {
  static World* made = nullptr;
  if (made == nullptr || made->attention != attention) {
    delete std::exchange(made, nullptr);
    made = new World{.attention = attention};
  }
  return *made;
}

/// Rows [begin, end) of the sequence, logits of the last.
double seconds_of(World& w, Sequence& sequence, int begin, int end) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(end - begin));
  std::iota(rows.begin(), rows.end(), begin);
  std::vector<TokenId> tokens(rows.begin(), rows.end());
  const std::int32_t last = end - begin - 1;
  const double start = now();
  benchmark::DoNotOptimize(w.model.forward(Pass{.tokens = tokens, .rows = rows, .logit_rows = {&last, 1}}, sequence));
  return now() - start;
}

/// Of the rows [begin, end) after the rows before them.
double flops_of(const ModelConfig& c, double begin, double end) {
  const double rows = end - begin;
  const double query = double{1} * c.num_heads * c.head_dim;
  const double key = double{1} * c.num_kv_heads * c.head_dim;
  const double weights = double{1} * c.hidden_size * (2 * query + 2 * key + 3.0 * c.ffn_size);
  const double pairs = (end * (end + 1) - begin * (begin + 1)) / 2;
  return c.num_layers * (2 * rows * weights + 4 * pairs * query);
}

void prefill(benchmark::State& state, AttentionKind attention) {
  World& w = world(attention);
  const auto num_tokens = static_cast<int>(state.range(0));
  Sequence sequence(w.cache);
  sequence.grow(num_tokens);
  for (int i = 0; i < 2; ++i) (void)seconds_of(w, sequence, 0, num_tokens);
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(seconds_of(w, sequence, 0, num_tokens));
    state.SetIterationTime(times.back());
  }
  state.counters["ms"] = median(times) * 1e3;
  state.counters["TFLOP/s"] = flops_of(w.model.config(), 0, num_tokens) / median(times) * 1e-12;
}

/// A card or a version that cuDNN does not serve must not cost the other rows.
void prefill_by_cudnn(benchmark::State& state) {
  try {
    prefill(state, AttentionKind::kCudnn);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
}

/// The last `fresh` rows of a sequence whose other rows are there: what reuse leaves to compute.
void last_rows(benchmark::State& state) {
  World& w = world(AttentionKind::kOwn);
  const auto num_tokens = static_cast<int>(state.range(0));
  const auto fresh = static_cast<int>(state.range(1));
  Sequence sequence(w.cache);
  sequence.grow(num_tokens + fresh);
  for (int i = 0; i < 2; ++i) (void)seconds_of(w, sequence, num_tokens, num_tokens + fresh);
  DeviceBuffer from(std::size_t{1} << 30);
  DeviceBuffer to(std::size_t{1} << 30);
  std::vector<double> copies;
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(seconds_of(w, sequence, num_tokens, num_tokens + fresh));
    state.SetIterationTime(times.back());
    const double start = now();
    mini_engine::gpu::check(cudaMemcpy(to.as<void>(), from.as<void>(), from.size_bytes(), cudaMemcpyDeviceToDevice),
                            "cudaMemcpy");
    mini_engine::gpu::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    copies.push_back(now() - start);
  }
  const double bytes_per_second = 2.0 * static_cast<double>(from.size_bytes()) / median(copies);
  // The embedding is looked up, not read.
  const auto read = static_cast<double>(w.model.weight_bytes()) - 2.0 * 128256 * 4096;
  state.counters["ms"] = median(times) * 1e3;
  state.counters["of_bound"] = read / bytes_per_second / median(times);
}

void register_all() {
  constexpr int kNumTokens[] = {2048, 4096, 16384};
  for (const int num_tokens : kNumTokens) {
    benchmark::RegisterBenchmark("prefill", prefill, AttentionKind::kOwn)
        ->Arg(num_tokens)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
    for (const int fresh : {1, 64}) {
      benchmark::RegisterBenchmark("last_rows", last_rows)
          ->Args({num_tokens, fresh})
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  if (!mini_engine::gpu::has_cudnn_attention()) return;
  for (const int num_tokens : kNumTokens) {
    benchmark::RegisterBenchmark("prefill_cudnn", prefill_by_cudnn)
        ->Arg(num_tokens)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) { return pikv_bench::run_gpu_benchmarks(argc, argv, register_all); }
