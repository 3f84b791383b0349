// What the laboratory reads of a GPU, and computes in its place, against the CPU engine on the same weights.
#include <doctest/doctest.h>

#include <vector>

#include "lab/ape_attention.hpp"
#include "lab/attention_similarity.hpp"
#include "lab/layer_errors.hpp"
#include "support/gpu_runs.hpp"
#include "support/gpu_watcher.hpp"

namespace {

using mini_engine::CacheMemory;
using mini_engine::Precision;
using mini_engine::Sequence;
using test_support::config_of_heads;
using test_support::distance;
using test_support::has_gpu;
using test_support::Prompt;
using test_support::TwoEngines;
using Rows = std::vector<std::int32_t>;

constexpr Precision kPrecisions[] = {Precision::kFloat32, Precision::kBFloat16};

double tolerance(Precision precision) { return precision == Precision::kFloat32 ? 1e-4 : 2e-2; }

TEST_CASE("rows and queries come off the GPU as they are on the CPU") {
  if (!has_gpu()) return;
  for (const Precision precision : kPrecisions) {
    CAPTURE(static_cast<int>(precision));
    TwoEngines engines(config_of_heads(8, 2, 64), precision);
    mini_engine::ThreadPool pool(2);
    const Prompt prompt(90, 3);
    const Rows question = test_support::range(75, 90), wanted = {89};
    Sequence on_cpu = prompt.in(engines.cpu_cache), on_gpu = prompt.in(engines.gpu_cache);
    lab::QueryCapture of_cpu(engines.config, CacheMemory::kHost, question);
    lab::QueryCapture of_gpu(engines.config, CacheMemory::kDevice, question);
    (void)engines.cpu.forward(prompt.pass(wanted, &of_cpu), on_cpu);
    (void)engines.gpu.forward(prompt.pass(wanted, &of_gpu), on_gpu);
    for (const lab::LayerError& error : lab::layer_errors(engines.config, on_cpu, on_gpu, prompt.rows, pool)) {
      CHECK(error.keys < tolerance(precision));
      CHECK(error.values < tolerance(precision));
    }
    const std::vector<lab::RowRange> passages = {{0, 40}, {40, 75}};
    const lab::AttentionSource cpu{&on_cpu, &of_cpu}, gpu{&on_gpu, &of_gpu};
    const lab::AttentionSimilarity alike = lab::compare_attention(engines.config, cpu, gpu, passages, pool);
    for (const double cosine : alike.cosine) CHECK(cosine > 1.0 - tolerance(precision));
    for (const double divergence : alike.divergence) CHECK(divergence < tolerance(precision));
    const lab::AttentionSimilarity same = lab::compare_attention(engines.config, gpu, gpu, passages, pool);
    for (const double divergence : same.divergence) CHECK(divergence == 0.0);
  }
}

TEST_CASE("APE on the GPU is APE on the CPU") {
  if (!has_gpu()) return;
  for (const Precision precision : kPrecisions) {
    CAPTURE(static_cast<int>(precision));
    TwoEngines engines(config_of_heads(8, 2, 64), precision);
    mini_engine::ThreadPool pool(2);
    const Prompt prompt(90, 4);
    const Rows wanted = {89};
    Sequence on_cpu = prompt.in(engines.cpu_cache), on_gpu = prompt.in(engines.gpu_cache);
    const std::vector<float> plain = engines.cpu.forward(prompt.pass(wanted, nullptr), on_cpu);
    (void)engines.gpu.forward(prompt.pass(wanted, nullptr), on_gpu);

    // Whatever stands in the contexts' rows does for this; the question is long at first, then one row.
    const lab::ApeRows rows{.prefix = 10, .contexts = {25, 35}};
    lab::ApeAttention of_cpu(engines.cpu, on_cpu, rows, {}, pool);
    lab::ApeAttention of_gpu(engines.gpu, on_gpu, rows, {}, pool);
    for (const std::int32_t first : {70, 89}) {
      const Rows question = test_support::range(first, 90);
      const Rows last = {89 - first};
      const auto pass = [&](mini_engine::PassObserver* observer) {
        return mini_engine::Pass{.tokens = std::span(prompt.tokens).subspan(static_cast<std::size_t>(first)),
                                 .rows = question,
                                 .logit_rows = last,
                                 .documents = {},
                                 .observer = observer};
      };
      const std::vector<float> expected = engines.cpu.forward(pass(&of_cpu), on_cpu);
      CHECK(distance(engines.gpu.forward(pass(&of_gpu), on_gpu), expected) < tolerance(precision));
      CHECK(distance(plain, expected) > 2 * tolerance(precision));
    }
  }
}

}  // namespace
