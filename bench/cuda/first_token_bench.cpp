// Time to the first token when most of a prompt is cached: Llama 3.1 8B shapes, random weights in bf16, eight chunks in
// an order that is new each time, and a question of 64 tokens that is computed. Wall time from the prompt to the token
// on the host: look-ups, plan, re-anchoring and the pass. Counters:
//   ms        median
//   place_ms  of it, until everything is looked up, planned and queued
//   of_full   median over that of a full prefill of the same prompt, in this process
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "harness.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/named_config.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "mini_engine/sampler.hpp"
#include "pikv/cuda.hpp"

namespace {

using mini_engine::ChunkServer;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;
using mini_engine::gpu::GpuModel;
using pikv_bench::median;
using pikv_bench::now;

constexpr int kPageSize = 16;
constexpr int kChunks = 8;
constexpr int kQuestion = 64;
constexpr int kMostTokens = 16384 + kQuestion;
constexpr std::int64_t kTokenBytes = std::int64_t{128} << 10;  // K and V of all layers in bf16

enum class Place { kDevice, kPinned, kPinnedFp8 };

template <class T>
T take(pikv::Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().to_string());
  return std::move(*result);
}

/// Everything that outlives a measurement. Chunks are encoded when they are first wanted.
class World {
 public:
  World()
      : backend_(take(pikv::make_cuda_backend())),
        pinned_(take(pikv::make_cuda_pinned_memory())),
        model_(GpuModel::random(mini_engine::named_config("llama3.1-8b"), 1, {.precision = Precision::kBFloat16})),
        cache_(mini_engine::gpu::make_device_cache(model_.config(), Precision::kBFloat16, kMostTokens / kPageSize,
                                                   kPageSize)) {}

  [[nodiscard]] mini_engine::PagedCache& cache() { return cache_; }
  [[nodiscard]] GpuModel& model() { return model_; }

  /// A server that holds the eight chunks of `num_tokens` in all. Only one at a time is kept.
  [[nodiscard]] ChunkServer& server(Place place, int num_tokens) {
    if (server_ != nullptr && place == place_ && num_tokens == num_tokens_) return *server_;
    server_.reset();
    pikv::SlabEncoding encoding;
    if (place == Place::kPinnedFp8) encoding.format = pikv::SlabFormat::kFloat8;
    server_ = std::make_unique<ChunkServer>(
        model_, cache_, std::array<std::byte, 32>{},
        mini_engine::ChunkServerOptions{.capacity_bytes = (num_tokens + 4096) * kTokenBytes,
                                        .store_dtype = pikv::DType::kBFloat16,
                                        .encoding = encoding,
                                        .device = {.backend = backend_.get(),
                                                   .chunk_memory = place == Place::kDevice ? nullptr : pinned_.get(),
                                                   .stream = pikv::cuda_stream(model_.stream())}});
    place_ = place;
    num_tokens_ = num_tokens;
    for (int i = 0; i < kChunks; ++i) (void)server_->encode_chunk(chunk(i, num_tokens / kChunks), {});
    return *server_;
  }

  [[nodiscard]] static std::vector<TokenId> chunk(int index, int size) {
    std::mt19937 random(static_cast<unsigned>(index + 1));
    std::vector<TokenId> tokens(static_cast<std::size_t>(size));
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 128000);
    return tokens;
  }

 private:
  std::unique_ptr<pikv::Backend> backend_;
  std::unique_ptr<pikv::MemoryResource> pinned_;
  GpuModel model_;
  mini_engine::PagedCache cache_;
  std::unique_ptr<ChunkServer> server_;
  Place place_{};
  int num_tokens_ = 0;
};

World& world() {
  static World& made = *new World;
  return made;
}

/// Of all tokens of the prompt, nothing reused.
double full_seconds(int num_tokens) {
  static std::map<int, double> known;
  if (const auto found = known.find(num_tokens); found != known.end()) return found->second;
  World& w = world();
  std::vector<double> times;
  for (int i = 0; i < 6; ++i) {
    const double start = now();
    Sequence sequence(w.cache());
    sequence.grow(num_tokens);
    std::vector<std::int32_t> rows(static_cast<std::size_t>(num_tokens));
    std::iota(rows.begin(), rows.end(), 0);
    const std::vector<TokenId> tokens = World::chunk(99, num_tokens);
    const std::int32_t last = num_tokens - 1;
    mini_engine::Sampler sampler({});
    benchmark::DoNotOptimize(
        w.model().next_token(Pass{.tokens = tokens, .rows = rows, .logit_rows = {&last, 1}}, sequence, sampler));
    if (i > 0) times.push_back(now() - start);
  }
  return known[num_tokens] = median(times);
}

void first_token(benchmark::State& state, Place place) {
  const auto num_tokens = static_cast<int>(state.range(0));
  const auto repaired = static_cast<int>(state.range(1));
  World& w = world();
  const double full = full_seconds(num_tokens + kQuestion);
  ChunkServer& server = w.server(place, num_tokens);
  // The first rows of every chunk, as many of each.
  const std::unique_ptr<pikv::RepairPolicy> repair =
      repaired == 0 ? pikv::make_no_repair() : take(pikv::make_first_rows_repair({.num_rows = repaired / kChunks}));
  std::vector<std::vector<TokenId>> chunks;
  for (int i = 0; i < kChunks; ++i) chunks.push_back(World::chunk(i, num_tokens / kChunks));
  std::mt19937 random(5);
  std::vector<double> placing;
  const auto serve_once = [&] {
    std::shuffle(chunks.begin(), chunks.end(), random);
    const std::vector<TokenId> question = World::chunk(static_cast<int>(random() % 1000) + 100, kQuestion);
    mini_engine::Sampler sampler({});
    const double start = now();
    pikv::Prompt prompt;
    for (const std::vector<TokenId>& chunk : chunks) prompt.add_chunk(chunk, server.recipe({}));
    prompt.add_fresh(question);
    Sequence sequence(w.cache());
    sequence.grow(static_cast<int>(prompt.num_rows()));
    const auto placement = server.place(prompt, sequence, {.store_exact_prefix = false, .repair = repair.get()});
    placing.push_back(now() - start);
    const auto rows = placement->plan().rows_to_compute();
    std::vector<TokenId> tokens;
    for (const std::int32_t row : rows) tokens.push_back(prompt.tokens()[static_cast<std::size_t>(row)]);
    const auto last = static_cast<std::int32_t>(rows.size() - 1);
    benchmark::DoNotOptimize(w.model().next_token(
        Pass{.tokens = tokens, .rows = rows, .logit_rows = {&last, 1}, .observer = placement->observer()}, sequence,
        sampler));
    placement->finish();
    const double seconds = now() - start;
    // The chunk that comes first has nothing before it, and thus nothing to repair.
    if (rows.size() != static_cast<std::size_t>(kQuestion + repaired * (kChunks - 1) / kChunks) &&
        rows.size() != static_cast<std::size_t>(kQuestion + repaired)) {
      state.SkipWithError("not every chunk was reused");
    }
    return seconds;
  };
  for (int i = 0; i < 4; ++i) (void)serve_once();
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(serve_once());
    state.SetIterationTime(times.back());
  }
  state.counters["ms"] = median(times) * 1e3;
  state.counters["place_ms"] = median(placing) * 1e3;
  state.counters["of_full"] = median(times) / full;
  state.counters["full_ms"] = full * 1e3;
}

void register_all() {
  for (const auto& [name, place] :
       {std::pair{"first_token/device", Place::kDevice}, std::pair{"first_token/pinned_bf16", Place::kPinned},
        std::pair{"first_token/pinned_fp8", Place::kPinnedFp8}}) {
    for (const int num_tokens : {4096, 16384}) {
      for (const int repaired : {0, 128}) {
        benchmark::RegisterBenchmark(name, first_token, place)
            ->Args({num_tokens, repaired})
            ->UseManualTime()
            ->Iterations(30)
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return pikv_bench::run_gpu_benchmarks(argc, argv, register_all); }
