// Tokens chosen on the GPU against Sampler: greedily the same, else from the same distribution.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "mini_engine/gpu/device.hpp"
#include "mini_engine/gpu/sampling.hpp"
#include "mini_engine/sampler.hpp"
#include "support/gpu_runs.hpp"

namespace {

using mini_engine::Sampler;
using mini_engine::TokenId;
using mini_engine::gpu::DeviceBuffer;
using mini_engine::gpu::Draw;
using mini_engine::gpu::Drawn;
using test_support::has_gpu;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<Drawn> draw(const std::vector<float>& logits, std::size_t vocab_size, const std::vector<Draw>& draws) {
  const mini_engine::gpu::Stream stream;
  mini_engine::gpu::Sampling sampling;
  DeviceBuffer memory;
  upload(memory, std::span<const float>(logits), stream.get());
  return sampling(memory.as<float>(), static_cast<std::int64_t>(vocab_size), draws, stream.get());
}

std::vector<float> made_up_logits(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = std::normal_distribution<float>(0.0F, 3.0F)(random);
  return logits;
}

TEST_CASE("greedily the same token, the lowest of equals, at any size") {
  if (!has_gpu()) return;
  for (const std::size_t size : {1U, 2U, 31U, 1000U, 1025U, 49152U, 128256U}) {
    CAPTURE(size);
    std::vector<float> rows = made_up_logits(3 * size, 1);
    std::vector<TokenId> expected;
    for (std::size_t row = 0; row < 3; ++row) {
      const std::span<float> logits = std::span<float>(rows).subspan(row * size, size);
      const auto greatest = std::max_element(logits.begin(), logits.end());
      logits[size - 1] = *greatest;  // an equal behind it
      expected.push_back(Sampler({}).next(logits));
    }
    const std::vector<Drawn> drawn = draw(rows, size, std::vector<Draw>(3));
    for (std::size_t row = 0; row < 3; ++row) {
      CHECK(drawn[row].token == expected[row]);
      CHECK(drawn[row].bad_logit == Drawn::kNone);
      CHECK(!drawn[row].is_empty);
    }
  }
}

TEST_CASE("rows that nothing can be chosen from are told apart and spoil no other's") {
  if (!has_gpu()) return;
  constexpr std::size_t kSize = 5000;
  std::vector<float> rows = made_up_logits(4 * kSize, 2);
  rows[4321] = std::nanf("");
  rows[4900] = kInfinity;
  rows[kSize + 17] = kInfinity;
  std::fill_n(rows.begin() + 2 * kSize, kSize, -kInfinity);
  const Sampler greedy({});
  const std::vector<Drawn> drawn = draw(rows, kSize, {{}, {.temperature = 1}, {.temperature = 1}, {}});
  CHECK(drawn[0].bad_logit == 4321);
  CHECK(drawn[1].bad_logit == 17);
  CHECK(drawn[2].is_empty);
  CHECK(drawn[3].token == Sampler({}).next(std::span<const float>(rows).subspan(3 * kSize)));
}

TEST_CASE("fractions find their ids, and only those of the nucleus") {
  if (!has_gpu()) return;
  for (const std::size_t size : {7U, 1500U, 128256U}) {
    for (const float top_p : {1.0F, 0.9F, 0.3F, 0.001F}) {
      for (const float temperature : {0.5F, 1.0F, 2.0F}) {
        CAPTURE(size);
        CAPTURE(top_p);
        CAPTURE(temperature);
        const std::vector<float> logits = made_up_logits(size, 3);
        const float greatest = *std::max_element(logits.begin(), logits.end());
        std::vector<double> weights(size);
        for (std::size_t i = 0; i < size; ++i) {
          weights[i] = std::exp(static_cast<double>(logits[i] - greatest) / temperature);
        }
        // The nucleus by sorting.
        std::vector<std::size_t> order(size);
        std::iota(order.begin(), order.end(), 0U);
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return weights[a] > weights[b]; });
        const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
        std::vector<bool> is_kept(size);
        double kept = 0;
        for (const std::size_t i : order) {
          if (top_p < 1 && kept >= all * top_p) break;
          is_kept[i] = true;
          kept += weights[i];
        }
        std::vector<double> ends(size);  // of each id's stretch of [0, 1)
        double sum = 0;
        for (std::size_t i = 0; i < size; ++i) {
          if (is_kept[i]) sum += weights[i] / kept;
          ends[i] = sum;
        }
        std::vector<Draw> draws;
        std::vector<float> rows;
        for (int i = 0; i < 16; ++i) {
          draws.push_back({.temperature = temperature, .top_p = top_p, .fraction = (i + 0.37) / 16});
          rows.insert(rows.end(), logits.begin(), logits.end());
        }
        const std::vector<Drawn> drawn = draw(rows, size, draws);
        for (std::size_t i = 0; i < drawn.size(); ++i) {
          const std::size_t token = drawn[i].token;
          REQUIRE(token < size);
          const double begin = token == 0 ? 0.0 : ends[token - 1];
          // Weights are rounded to fp32, which moves the stretches and may move one weight at the nucleus' edge.
          const double slack =
              1e-5 +
              2 * weights[order[static_cast<std::size_t>(std::count(is_kept.begin(), is_kept.end(), true)) - 1]] / kept;
          CHECK(draws[i].fraction > begin - slack);
          CHECK(draws[i].fraction < ends[token] + slack);
          CHECK(weights[token] > 0);
        }
      }
    }
  }
}

TEST_CASE("equal weights at the nucleus' edge are kept by lowest id") {
  if (!has_gpu()) return;
  const std::vector<float> logits(4096, 1.5F);
  for (const double fraction : {0.0, 0.24, 0.51, 0.999}) {
    const std::vector<Drawn> drawn = draw(logits, 4096, {{.temperature = 1, .top_p = 0.25F, .fraction = fraction}});
    CHECK(drawn[0].token == static_cast<TokenId>(fraction * 1024));
  }
}

}  // namespace
