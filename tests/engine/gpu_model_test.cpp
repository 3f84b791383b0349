// The GPU engine against the CPU engine on the same weights: fp32 nearly to the last digit, bf16 as its rounding
// allows.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/thread_pool.hpp"
#include "mini_engine/weights.hpp"
#include "support/gpu_runs.hpp"

namespace {

using mini_engine::AttentionKind;
using mini_engine::CpuModel;
using mini_engine::Model;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::SequencePass;
using mini_engine::TokenId;
using mini_engine::gpu::GpuModel;
using test_support::distance;
using test_support::has_gpu;

constexpr int kPageSize = 16;
constexpr int kPages = 128;

ModelConfig small_config(int num_heads, int num_kv_heads, int head_dim) {
  ModelConfig config;
  config.num_layers = 3;
  config.hidden_size = 128;
  config.num_heads = num_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  config.ffn_size = 256;
  config.vocab_size = 512;
  config.max_positions = 2048;
  return config;
}

/// The same weights on both.
struct Engines {
  Engines(const ModelConfig& config, Precision precision, AttentionKind attention = AttentionKind::kOwn)
      : cpu(CpuModel::random(config, 7, {.weights = precision, .num_threads = 2})),
        gpu([&] {
          mini_engine::ThreadPool pool(2);
          return GpuModel::copy_of(config, mini_engine::Weights::random(config, 7, precision, pool),
                                   {.precision = precision, .attention = attention});
        }()),
        cpu_cache(config, precision, kPages, kPageSize),
        gpu_cache(mini_engine::gpu::make_device_cache(config, precision, kPages, kPageSize)) {}

  CpuModel cpu;
  GpuModel gpu;
  PagedCache cpu_cache;
  PagedCache gpu_cache;
};

std::vector<TokenId> made_up_tokens(int count, int seed) {
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  auto state = static_cast<std::uint32_t>(seed);
  for (TokenId& token : tokens) {
    state = state * 1664525U + 1013904223U;
    token = (state >> 8) % 512;
  }
  return tokens;
}

/// Rows [begin, end) of `tokens` in one pass; logits of all of them.
std::vector<float> run(Model& model, Sequence& sequence, const std::vector<TokenId>& tokens, int begin, int end,
                       const std::vector<std::int32_t>& documents = {}) {
  if (sequence.size() < end) sequence.grow(end - sequence.size());
  std::vector<std::int32_t> rows(static_cast<std::size_t>(end - begin));
  std::iota(rows.begin(), rows.end(), begin);
  std::vector<std::int32_t> all(rows.size());
  std::iota(all.begin(), all.end(), 0);
  return model.forward(Pass{.tokens = {tokens.data() + begin, rows.size()},
                            .rows = rows,
                            .logit_rows = all,
                            .documents = {documents.data(), documents.empty() ? 0 : static_cast<std::size_t>(end)}},
                       sequence);
}

double tolerance(Precision precision) { return precision == Precision::kFloat32 ? 1e-4 : 2e-2; }

struct Shape {
  int num_heads, num_kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{4, 2, 16}, {6, 2, 64}, {8, 2, 128}, {3, 3, 64}, {32, 2, 64}, {4, 1, 40}};

TEST_CASE("prefill, continuation and single rows give the CPU engine's logits") {
  if (!has_gpu()) return;
  for (const Shape& shape : kShapes) {
    for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
      CAPTURE(shape.num_heads);
      CAPTURE(shape.head_dim);
      CAPTURE(static_cast<int>(precision));
      Engines engines(small_config(shape.num_heads, shape.num_kv_heads, shape.head_dim), precision);
      const std::vector<TokenId> tokens = made_up_tokens(401, 3);
      Sequence on_cpu(engines.cpu_cache);
      Sequence on_gpu(engines.gpu_cache);
      for (const auto& [begin, end] : {std::pair{0, 1}, {1, 64}, {64, 129}, {129, 399}, {399, 400}, {400, 401}}) {
        CAPTURE(end);
        const std::vector<float> expected = run(engines.cpu, on_cpu, tokens, begin, end);
        CHECK(distance(run(engines.gpu, on_gpu, tokens, begin, end), expected) < tolerance(precision));
      }
    }
  }
}

TEST_CASE("small passes replayed as graphs give what they gave, while sequences grow and others come between") {
  if (!has_gpu()) return;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    Engines engines(small_config(8, 2, 64), precision);
    const std::vector<TokenId> tokens[] = {made_up_tokens(300, 11), made_up_tokens(300, 12)};
    std::vector<Sequence> on_cpu;
    std::vector<Sequence> on_gpu;
    for (int i = 0; i < 2; ++i) {
      on_cpu.emplace_back(engines.cpu_cache);
      on_gpu.emplace_back(engines.gpu_cache);
      (void)run(engines.cpu, on_cpu.back(), tokens[i], 0, 250 - 200 * i);
      (void)run(engines.gpu, on_gpu.back(), tokens[i], 0, 250 - 200 * i);
    }
    for (int step = 0; step < 20; ++step) {
      for (std::size_t i = 0; i < 2; ++i) {
        CAPTURE(step);
        const int row = on_cpu[i].size();
        const std::vector<float> expected = run(engines.cpu, on_cpu[i], tokens[i], row, row + 1);
        CHECK(distance(run(engines.gpu, on_gpu[i], tokens[i], row, row + 1), expected) < tolerance(precision));
      }
      if (step % 7 != 6) continue;
      Sequence another(engines.gpu_cache);
      (void)run(engines.gpu, another, tokens[0], 0, 100 + 8 * step);
    }
  }
}

TEST_CASE("documents see what they see on the CPU") {
  if (!has_gpu()) return;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    Engines engines(small_config(8, 2, 64), precision);
    const std::vector<TokenId> tokens = made_up_tokens(200, 5);
    std::vector<std::int32_t> documents(200, Pass::kSeesAll);
    std::fill(documents.begin() + 10, documents.begin() + 90, 0);
    std::fill(documents.begin() + 90, documents.begin() + 170, 1);
    Sequence on_cpu(engines.cpu_cache);
    Sequence on_gpu(engines.gpu_cache);
    const std::vector<float> expected = run(engines.cpu, on_cpu, tokens, 0, 200, documents);
    CHECK(distance(run(engines.gpu, on_gpu, tokens, 0, 200, documents), expected) < tolerance(precision));
    Sequence plain(engines.gpu_cache);
    CHECK(distance(run(engines.gpu, plain, tokens, 0, 200), expected) > 1e-2);
  }
}

TEST_CASE("a batch gives each sequence what it gets alone, and rows may be any") {
  if (!has_gpu()) return;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    Engines engines(small_config(8, 2, 64), precision);
    const std::vector<std::vector<TokenId>> prompts = {made_up_tokens(33, 1), made_up_tokens(1, 2),
                                                       made_up_tokens(150, 3)};
    std::vector<Sequence> sequences;
    std::vector<std::vector<std::int32_t>> rows;
    std::vector<SequencePass> passes;
    sequences.reserve(prompts.size());
    for (const std::vector<TokenId>& prompt : prompts) {
      sequences.emplace_back(engines.gpu_cache);
      sequences.back().grow(static_cast<int>(prompt.size()));
      rows.emplace_back(prompt.size());
      std::iota(rows.back().begin(), rows.back().end(), 0);
    }
    const std::vector<std::int32_t> last[] = {{32}, {0}, {7, 149}};
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      passes.push_back({Pass{.tokens = prompts[i], .rows = rows[i], .logit_rows = last[i]}, &sequences[i]});
    }
    const std::vector<std::vector<float>> together = engines.gpu.forward(passes);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      Sequence alone(engines.cpu_cache);
      alone.grow(static_cast<int>(prompts[i].size()));
      const std::vector<float> expected =
          engines.cpu.forward(Pass{.tokens = prompts[i], .rows = rows[i], .logit_rows = last[i]}, alone);
      CHECK(distance(together[i], expected) < tolerance(precision));
    }
    // Rows in the midst of a sequence once more: nothing changes.
    const std::vector<std::int32_t> some{3, 4, 60, 149};
    std::vector<TokenId> tokens;
    for (const std::int32_t row : some) tokens.push_back(prompts[2][static_cast<std::size_t>(row)]);
    const std::vector<std::int32_t> end{3};
    const std::vector<float> again =
        engines.gpu.forward(Pass{.tokens = tokens, .rows = some, .logit_rows = end}, sequences[2]);
    const std::vector<float> before(together[2].begin() + 512, together[2].end());
    CHECK(distance(again, before) < tolerance(precision) / 2);
  }
}

TEST_CASE("cuDNN's attention in long passes, and the own one in short ones, give the CPU engine's logits") {
  if (!test_support::has_cudnn() || !has_gpu()) return;
  Engines engines(small_config(4, 2, 64), Precision::kBFloat16, AttentionKind::kCudnn);
  const std::vector<TokenId> tokens = made_up_tokens(1300, 3);
  Sequence on_cpu(engines.cpu_cache);
  Sequence on_gpu(engines.gpu_cache);
  for (const auto& [begin, end] : {std::pair{0, 600}, {600, 640}, {640, 1300}}) {
    CAPTURE(end);
    const std::vector<float> expected = run(engines.cpu, on_cpu, tokens, begin, end);
    CHECK(distance(run(engines.gpu, on_gpu, tokens, begin, end), expected) < tolerance(Precision::kBFloat16));
  }
}

TEST_CASE("what the GPU engine cannot compute is refused by name") {
  if (!has_gpu()) return;
  ModelConfig odd = small_config(4, 2, 16);
  odd.ffn_size = 250;
  CHECK_THROWS_WITH_AS((void)GpuModel::random(odd, 1, {}),
                       doctest::Contains("feed-forward size is 250, not a multiple of 8"), mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)GpuModel::random(small_config(4, 2, 64), 1,
                                              {.precision = Precision::kFloat32, .attention = AttentionKind::kCudnn}),
                       "GPU engine: cuDNN's attention computes in bf16 alone", mini_engine::Error);
  Engines engines(small_config(4, 2, 16), Precision::kBFloat16);
  PagedCache wrong = mini_engine::gpu::make_device_cache(engines.gpu.config(), Precision::kFloat32, 4, kPageSize);
  Sequence sequence(wrong);
  CHECK_THROWS_AS((void)run(engines.gpu, sequence, made_up_tokens(3, 1), 0, 3), mini_engine::Error);
}

}  // namespace
