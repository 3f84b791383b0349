// How fast the example engine is, set against OpenBLAS itself on the same threads in the same run.
//
//   engine_bench                                    random weights of SmolLM2-135M's shape
//   PIKV_SMOLLM2=<file.gguf> engine_bench           the model itself
//   PIKV_BENCH_THREADS=<n>                          threads, all cores by default
//
// Prefill counts 2 operations per weight and token (without the head, which only the last token needs) and 4*D per
// visible pair of rows, query head and layer. "of_sgemm" is its share of the rate of sgemm at 1024^3.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/named_config.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::Model;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;

int num_threads() {
  const char* text = std::getenv("PIKV_BENCH_THREADS");
  return text != nullptr ? std::atoi(text) : static_cast<int>(std::thread::hardware_concurrency());
}

// One model at a time: a benchmark of another precision replaces it.
Model& model_of(Precision weights) {
  static std::unique_ptr<CpuModel> model;
  static Precision held = Precision::kFloat32;
  if (!model || held != weights) {
    model.reset();
    const mini_engine::ModelOptions options{.weights = weights, .num_threads = num_threads()};
    const char* path = std::getenv("PIKV_SMOLLM2");
    model = std::make_unique<CpuModel>(path != nullptr
                                           ? CpuModel(*mini_engine::open_model(path), options)
                                           : CpuModel::random(mini_engine::named_config("smollm2-135m"), 1, options));
    held = weights;
  }
  return *model;
}

Precision precision_of(std::int64_t argument) { return argument == 0 ? Precision::kFloat32 : Precision::kBFloat16; }

double num_weights_per_token(const ModelConfig& c) {
  const double per_layer =
      1.0 * c.hidden_size * c.head_dim * (2.0 * c.num_heads + 2.0 * c.num_kv_heads) + 3.0 * c.hidden_size * c.ffn_size;
  return per_layer * c.num_layers;
}

double prefill_flop(const ModelConfig& c, double num_rows) {
  const double num_pairs = num_rows * (num_rows + 1.0) / 2.0;
  return 2.0 * num_weights_per_token(c) * num_rows + 4.0 * c.head_dim * num_pairs * c.num_heads * c.num_layers +
         2.0 * c.hidden_size * c.vocab_size;
}

void multiply_square(int size, const std::vector<float>& a, const std::vector<float>& b, std::vector<float>& c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size, size, size, 1.0F, a.data(), size, b.data(), size, 0.0F,
              c.data(), size);
}

// FLOP/s of sgemm at 1024^3, the best of several runs right now: other load on the machine slows both sides alike.
double sgemm_rate() {
  constexpr int kSize = 1024;
  const std::vector<float> a(kSize * kSize, 0.5F), b(kSize * kSize, 0.25F);
  std::vector<float> c(kSize * kSize);
  openblas_set_num_threads(num_threads());
  double best = 1e30;
  for (int run = 0; run < 10; ++run) {
    const auto start = std::chrono::steady_clock::now();
    multiply_square(kSize, a, b, c);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 2.0 * kSize * kSize * kSize / best;
}

void run_sgemm(benchmark::State& state) {
  const auto size = static_cast<int>(state.range(0));
  const std::vector<float> a(static_cast<std::size_t>(size * size), 0.5F), b(a);
  std::vector<float> c(a.size());
  openblas_set_num_threads(num_threads());
  for (auto _ : state) multiply_square(size, a, b, c);
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * size * size * size, benchmark::Counter::kIsIterationInvariantRate);
}

void run_prefill(benchmark::State& state) {
  const auto num_rows = static_cast<int>(state.range(0));
  Model& model = model_of(precision_of(state.range(1)));
  const ModelConfig& config = model.config();
  PagedCache cache(config, precision_of(state.range(1)), num_rows / 16 + 1, 16);
  Sequence sequence(cache);
  sequence.grow(num_rows);
  std::vector<TokenId> tokens(static_cast<std::size_t>(num_rows));
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<TokenId>(i * 7919 % 49152);
  std::vector<std::int32_t> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), 0);
  const std::vector<std::int32_t> last = {num_rows - 1};

  const double rate = sgemm_rate();
  double seconds = 0.0;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(model.forward({.tokens = tokens, .rows = rows, .logit_rows = last}, sequence));
    const double taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    state.SetIterationTime(taken);
    seconds += taken;
  }
  const double achieved = prefill_flop(config, num_rows) * static_cast<double>(state.iterations()) / seconds;
  state.counters["FLOP/s"] = achieved;
  state.counters["of_sgemm"] = achieved / std::max(rate, sgemm_rate());
  state.counters["tokens/s"] = num_rows * static_cast<double>(state.iterations()) / seconds;
}

void run_decode(benchmark::State& state) {
  const auto num_before = static_cast<int>(state.range(0));
  const Precision precision = precision_of(state.range(1));
  Model& model = model_of(precision);
  const ModelConfig& config = model.config();
  PagedCache cache(config, precision, num_before / 16 + 2, 16);
  Sequence sequence(cache);
  sequence.grow(num_before + 1);
  const std::vector<TokenId> token = {7};
  const std::vector<std::int32_t> row = {num_before}, first = {0};
  for (auto _ : state) {
    benchmark::DoNotOptimize(model.forward({.tokens = token, .rows = row, .logit_rows = first}, sequence));
  }
  const double element_bytes = precision == Precision::kFloat32 ? 4.0 : 2.0;
  const double num_read = num_weights_per_token(config) + 1.0 * config.hidden_size * config.vocab_size +
                          2.0 * config.num_layers * config.num_kv_heads * config.head_dim * num_before;
  state.counters["tokens/s"] = benchmark::Counter(1.0, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["bytes/s"] =
      benchmark::Counter(num_read * element_bytes, benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(run_sgemm)->Name("sgemm")->Arg(1024)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(run_prefill)
    ->Name("prefill")
    ->ArgNames({"tokens", "bf16"})
    ->ArgsProduct({{128, 1200, 4096}, {0}})
    ->Args({1200, 1})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(run_decode)
    ->Name("decode")
    ->ArgNames({"cached", "bf16"})
    ->ArgsProduct({{100, 1200, 8000}, {0, 1}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
