// What it costs to find known chunks in a prompt of 131,072 tokens: plain, dense with hits, and made to be slow.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "pikv/finder.hpp"

namespace {

constexpr std::size_t kPromptTokens = 131072;
using Tokens = std::vector<pikv::TokenId>;

pikv::ChunkKey key_of(std::uint64_t number) {
  pikv::ChunkKey key;
  std::memcpy(key.bytes.data(), &number, sizeof number);
  return key;
}

Tokens random_tokens(std::mt19937& random, std::size_t length) {
  Tokens tokens(length);
  for (pikv::TokenId& token : tokens) token = static_cast<pikv::TokenId>(random() % 128256);
  return tokens;
}

pikv::ChunkFinder make_finder() { return std::move(pikv::ChunkFinder::create({.window_tokens = 16}).value()); }

void add(pikv::ChunkFinder& finder, std::uint64_t number, const Tokens& tokens) {
  if (!finder.add(key_of(number), tokens).ok()) std::abort();
}

void run(benchmark::State& state, const pikv::ChunkFinder& finder, const Tokens& prompt) {
  std::size_t num_found = 0;
  for (auto _ : state) {
    num_found = finder.find(prompt).size();
    benchmark::DoNotOptimize(num_found);
  }
  state.counters["found"] = static_cast<double>(num_found);
  state.counters["per_token"] = benchmark::Counter(
      static_cast<double>(prompt.size()), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void no_hits(benchmark::State& state) {
  std::mt19937 random(1);
  pikv::ChunkFinder finder = make_finder();
  for (std::int64_t i = 0; i < state.range(0); ++i)
    add(finder, static_cast<std::uint64_t>(i), random_tokens(random, 512));
  run(state, finder, random_tokens(random, kPromptTokens));
}
BENCHMARK(no_hits)->Arg(1000)->Arg(4000)->Arg(16000)->Unit(benchmark::kMillisecond);

void all_hits(benchmark::State& state) {
  std::mt19937 random(1);
  pikv::ChunkFinder finder = make_finder();
  Tokens prompt;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    const Tokens tokens = random_tokens(random, 512);
    add(finder, static_cast<std::uint64_t>(i), tokens);
    if (prompt.size() < kPromptTokens) prompt.insert(prompt.end(), tokens.begin(), tokens.end());
  }
  run(state, finder, prompt);
}
BENCHMARK(all_hits)->Arg(4000)->Unit(benchmark::kMillisecond);

/// Every place opens with the window of all chunks, and no chunk matches.
void one_window_no_match(benchmark::State& state) {
  pikv::ChunkFinder finder = make_finder();
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    Tokens tokens(static_cast<std::size_t>(16 + i), 7);
    tokens.push_back(8);
    add(finder, static_cast<std::uint64_t>(i), tokens);
  }
  run(state, finder, Tokens(kPromptTokens, 7));
}
BENCHMARK(one_window_no_match)->Arg(1000)->Arg(4000)->Unit(benchmark::kMillisecond);

/// Adding and removing chunks that share their first window with `range` others.
void add_to_one_window(benchmark::State& state) {
  std::mt19937 random(1);
  const Tokens opening = random_tokens(random, 32);
  const auto document = [&] {
    Tokens tokens = opening;
    const Tokens rest = random_tokens(random, 480);
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    return tokens;
  };
  pikv::ChunkFinder finder = make_finder();
  for (std::int64_t i = 0; i < state.range(0); ++i) add(finder, static_cast<std::uint64_t>(i), document());
  const Tokens one_more = document();
  for (auto _ : state) {
    add(finder, ~std::uint64_t{0}, one_more);
    finder.remove(key_of(~std::uint64_t{0}));
  }
}
BENCHMARK(add_to_one_window)->Arg(1)->Arg(1000)->Arg(4000)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
