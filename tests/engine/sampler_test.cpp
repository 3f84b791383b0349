#include "mini_engine/sampler.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "mini_engine/error.hpp"

using namespace mini_engine;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// How often each id is drawn, as a fraction.
std::vector<double> frequencies(const SamplerOptions& options, const std::vector<float>& logits, int num_draws) {
  Sampler sampler(options);
  std::vector<double> result(logits.size());
  for (int i = 0; i < num_draws; ++i) result[sampler.next(logits)] += 1.0 / num_draws;
  return result;
}

/// What to expect, computed without any of the sampler's means: ids in `nucleus` share by softmax.
std::vector<double> softmax(const std::vector<float>& logits, float temperature, const std::vector<bool>& nucleus) {
  std::vector<double> result(logits.size());
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (nucleus[i]) sum += result[i] = std::exp(static_cast<double>(logits[i] / temperature));
  }
  for (double& share : result) share /= sum;
  return result;
}

void check_close(const std::vector<double>& actual, const std::vector<double>& expected, int num_draws) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    const double deviation = std::sqrt(expected[i] * (1 - expected[i]) / num_draws);
    CHECK(std::abs(actual[i] - expected[i]) <= 5 * deviation + 1e-9);
  }
}

}  // namespace

TEST_CASE("greedy takes the greatest logit, the lowest id among equals") {
  Sampler sampler(SamplerOptions{});
  CHECK(sampler.next(std::vector<float>{0.0F, 3.0F, -1.0F, 3.0F}) == 1);
  CHECK(sampler.next(std::vector<float>{-kInfinity, -5.0F}) == 1);
  CHECK(sampler.next(std::vector<float>{-2.0F}) == 0);
}

TEST_CASE("draws follow the softmax at any temperature") {
  const std::vector<float> logits = {1.0F, 0.0F, 2.5F, -kInfinity, 1.0F, -2.0F};
  const std::vector<bool> all = {true, true, true, false, true, true};
  constexpr int kNumDraws = 200'000;
  for (const float temperature : {0.5F, 1.0F, 3.0F}) {
    CAPTURE(temperature);
    const SamplerOptions options{.temperature = temperature, .top_p = 1.0F, .seed = 11};
    check_close(frequencies(options, logits, kNumDraws), softmax(logits, temperature, all), kNumDraws);
  }
}

TEST_CASE("top_p keeps the fewest most probable ids that reach it") {
  // Shares 0.5, 0.25, 0.125, 0.125, out of order.
  const float half = std::log(0.5F), quarter = std::log(0.25F), eighth = std::log(0.125F);
  const std::vector<float> logits = {eighth, half, eighth, quarter};
  constexpr int kNumDraws = 100'000;
  const auto check = [&](float top_p, const std::vector<bool>& nucleus) {
    CAPTURE(top_p);
    const SamplerOptions options{.temperature = 1.0F, .top_p = top_p, .seed = 5};
    check_close(frequencies(options, logits, kNumDraws), softmax(logits, 1.0F, nucleus), kNumDraws);
  };
  check(1e-6F, {false, true, false, false});
  check(0.49F, {false, true, false, false});
  check(0.51F, {false, true, false, true});
  check(0.74F, {false, true, false, true});
  check(0.80F, {true, true, false, true});  // of equals, the lower id comes first
  check(0.99F, {true, true, true, true});
}

TEST_CASE("the same seed draws the same tokens, another seed others") {
  std::vector<float> logits(1000);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i));
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 0.8F, .top_p = 0.9F, .seed = seed});
    std::vector<TokenId> ids(64);
    for (TokenId& id : ids) id = sampler.next(logits);
    return ids;
  };
  CHECK(draw(1) == draw(1));
  CHECK(draw(1) != draw(2));
}

TEST_CASE("extreme logits and temperatures neither overflow nor fail") {
  const std::vector<float> logits = {3e38F, -3e38F, 3e38F};
  for (const float temperature : {1e-30F, 1.0F, 3e38F}) {
    const TokenId id = Sampler({.temperature = temperature, .top_p = 0.9F, .seed = 3}).next(logits);
    CHECK(id < logits.size());
    if (temperature == 1.0F) CHECK(id != 1);
  }
}

TEST_CASE("what is no distribution is refused") {
  CHECK_THROWS_AS(Sampler({.temperature = -0.1F}), Error);
  CHECK_THROWS_AS(Sampler({.temperature = kNaN}), Error);
  CHECK_THROWS_AS(Sampler({.temperature = kInfinity}), Error);
  CHECK_THROWS_AS(Sampler({.temperature = 1.0F, .top_p = 0.0F}), Error);
  CHECK_THROWS_AS(Sampler({.temperature = 1.0F, .top_p = 1.1F}), Error);
  CHECK_THROWS_AS(Sampler({.temperature = 1.0F, .top_p = kNaN}), Error);

  Sampler sampler(SamplerOptions{});
  CHECK_THROWS_WITH_AS((void)sampler.next({}), "sampler: no logits", Error);
  CHECK_THROWS_WITH_AS((void)sampler.next(std::vector<float>{1, kNaN}), doctest::Contains("logit of token 1"), Error);
  CHECK_THROWS_WITH_AS((void)sampler.next(std::vector<float>{kInfinity}), doctest::Contains("logit of token 0"), Error);
  CHECK_THROWS_WITH_AS((void)sampler.next(std::vector<float>{-kInfinity, -kInfinity}),
                       "sampler: every logit is minus infinity", Error);
}
