// What a chunk's key costs, in nanoseconds per token, over chunk lengths.
#include <benchmark/benchmark.h>

#include <numeric>
#include <vector>

#include "pikv/chunk_key.hpp"

namespace {

pikv::ChunkKeyer make_keyer() {
  const std::vector<std::byte> secret(32, std::byte{1});
  return std::move(pikv::ChunkKeyer::create(
                       {.model = {},
                        .geometry = {.num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128},
                        .rope = pikv::RopeConfig(500000, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product),
                        .name_space = "private:bench",
                        .secret = secret})
                       .value());
}

void report(benchmark::State& state) {
  state.counters["per_token"] = benchmark::Counter(
      static_cast<double>(state.range(0)), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void chunk_key(benchmark::State& state) {
  const pikv::ChunkKeyer keyer = make_keyer();
  std::vector<pikv::TokenId> tokens(static_cast<std::size_t>(state.range(0)));
  std::iota(tokens.begin(), tokens.end(), 0U);
  for (auto _ : state) {
    ++tokens[0];
    benchmark::DoNotOptimize(keyer.key(pikv::ChunkRecipe::alone(), tokens));
  }
  report(state);
}
BENCHMARK(chunk_key)->RangeMultiplier(2)->Range(16, 4096);

void context_extend(benchmark::State& state) {
  const pikv::ChunkKeyer keyer = make_keyer();
  const std::vector<pikv::TokenId> tokens(static_cast<std::size_t>(state.range(0)), 7);
  pikv::ContextDigest context = keyer.empty_context();
  for (auto _ : state) {
    context = keyer.extend(context, tokens);
    benchmark::DoNotOptimize(context);
  }
  report(state);
}
BENCHMARK(context_extend)->Arg(16)->Arg(64)->Arg(256);

}  // namespace

BENCHMARK_MAIN();
