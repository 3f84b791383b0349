// Distances between distributions, worked out by hand.
#include "rag_demo/distribution_metrics.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

namespace {

using rag_demo::compare_rows;
using rag_demo::DistributionComparison;
using rag_demo::kl_divergence;
using rag_demo::log_softmax;
using rag_demo::mean_nll;
using rag_demo::rms_probability_difference;
using rag_demo::token_log_probabilities;
using rag_demo::top1_agrees;
using Row = std::vector<float>;

constexpr float kMasked = -std::numeric_limits<float>::infinity();

TEST_CASE("log-softmax keeps its precision at any offset") {
  const std::vector<double> even = log_softmax(Row{7.0F, 7.0F, 7.0F, 7.0F});
  for (const double value : even) CHECK(value == doctest::Approx(-std::log(4.0)).epsilon(1e-14));
  for (const float offset : {0.0F, 1024.0F, -1024.0F, 1e30F}) {
    const std::vector<double> row = log_softmax(Row{offset, offset});
    CHECK(row[0] == doctest::Approx(-std::log(2.0)).epsilon(1e-14));
  }
  // 1 - softmax is about exp(-40), far below what fp32 can tell from 1.
  CHECK(log_softmax(Row{40.0F, 0.0F})[0] == doctest::Approx(-std::exp(-40.0)).epsilon(0.01));
  const std::vector<double> masked = log_softmax(Row{1.0F, kMasked});
  CHECK(masked[0] == 0.0);
  CHECK(masked[1] == -std::numeric_limits<double>::infinity());
  CHECK(log_softmax(Row{-3.0F})[0] == 0.0);
}

TEST_CASE("KL divergence of small distributions") {
  const Row quarter = {0.0F, std::log(3.0F)};  // 1/4, 3/4
  const Row half = {5.0F, 5.0F};               // 1/2, 1/2
  CHECK(kl_divergence(quarter, half) == doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)).epsilon(1e-6));
  CHECK(kl_divergence(half, quarter) == doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0)).epsilon(1e-6));
  CHECK(kl_divergence(half, half) == 0.0);
  CHECK(kl_divergence(quarter, Row{-7.0F, std::log(3.0F) - 7.0F}) == doctest::Approx(0.0));

  CHECK(kl_divergence(Row{0.0F, kMasked}, half) == doctest::Approx(std::log(2.0)).epsilon(1e-14));
  CHECK(kl_divergence(half, Row{0.0F, kMasked}) == std::numeric_limits<double>::infinity());
  CHECK(kl_divergence(Row{0.0F, kMasked}, Row{1.0F, kMasked}) == 0.0);
}

TEST_CASE("top-1 breaks ties by the lower id") {
  CHECK(top1_agrees(Row{0.0F, 2.0F, 1.0F}, Row{-1.0F, 9.0F, 8.0F}));
  CHECK_FALSE(top1_agrees(Row{0.0F, 2.0F, 1.0F}, Row{0.0F, 1.0F, 2.0F}));
  CHECK(top1_agrees(Row{3.0F, 3.0F}, Row{3.0F, 2.0F}));
  CHECK_FALSE(top1_agrees(Row{3.0F, 3.0F}, Row{2.0F, 3.0F}));
}

TEST_CASE("rows are averaged") {
  const Row reference = {0.0F, std::log(3.0F), 5.0F, 5.0F, 9.0F, 1.0F};
  const Row other = {5.0F, 5.0F, 0.0F, 0.0F, 9.0F, 1.0F};
  const DistributionComparison result = compare_rows(reference, other, 2);
  const double first = 0.25 * std::log(0.5) + 0.75 * std::log(1.5);
  CHECK(result.num_rows == 3);
  CHECK(result.mean_kl == doctest::Approx(first / 3.0).epsilon(1e-6));
  CHECK(result.max_kl == doctest::Approx(first).epsilon(1e-6));
  CHECK(result.top1_agreement == doctest::Approx(2.0 / 3.0));
}

TEST_CASE("rows of any length against the definitions, term by term") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  for (const std::size_t size : {1, 2, 7, 8, 9, 16, 17, 511, 512, 513, 1031}) {
    Row reference(size), other(size);
    for (std::size_t i = 0; i < size; ++i) {
      reference[i] = normal(random);
      // What is far below the largest counts for next to nothing, and is as good as masked in the end.
      other[i] = i % 5 == 3 ? reference[i] - 300.0F : reference[i] + 0.1F * normal(random);
      if (i % 7 == 6) reference[i] -= 800.0F;
      if (i % 11 == 10) reference[i] = kMasked;
    }
    double reference_sum = 0, other_sum = 0, kl = 0;
    for (const float logit : reference) reference_sum += std::exp(double{logit});
    for (const float logit : other) other_sum += std::exp(double{logit});
    for (std::size_t i = 0; i < size; ++i) {
      const double p = std::exp(double{reference[i]}) / reference_sum;
      if (p > 0) kl += p * (double{reference[i]} - std::log(reference_sum) - double{other[i]} + std::log(other_sum));
    }
    CHECK(kl_divergence(reference, other) == doctest::Approx(kl).epsilon(1e-13));
    const std::vector<double> logs = log_softmax(other);
    for (std::size_t i = 0; i < size; ++i) {
      CHECK(logs[i] == doctest::Approx(double{other[i]} - std::log(other_sum)).epsilon(1e-14));
    }
    CHECK(kl_divergence(other, other) == 0.0);
  }
}

TEST_CASE("probabilities of given tokens") {
  const Row logits = {0.0F, std::log(3.0F), 5.0F, 5.0F, kMasked, 1.0F};
  const std::vector<double> first = token_log_probabilities(logits, 2, std::vector<std::uint32_t>{1, 0, 1});
  REQUIRE(first.size() == 3);
  CHECK(first[0] == doctest::Approx(std::log(0.75)).epsilon(1e-7));
  CHECK(first[1] == doctest::Approx(std::log(0.5)).epsilon(1e-14));
  CHECK(first[2] == 0.0);
  CHECK(mean_nll(first) == doctest::Approx(-(std::log(0.75) + std::log(0.5)) / 3).epsilon(1e-7));
  const std::vector<double> second = token_log_probabilities(logits, 2, std::vector<std::uint32_t>{0, 0, 0});
  CHECK(second[2] == -std::numeric_limits<double>::infinity());
  CHECK(mean_nll(second) == std::numeric_limits<double>::infinity());
  CHECK(rms_probability_difference(first, second) == doctest::Approx(std::sqrt((0.25 + 0.0 + 1.0) / 3)).epsilon(1e-6));
  CHECK(rms_probability_difference(second, second) == 0.0);

  const std::vector<std::uint32_t> beyond = {0, 1, 2};
  CHECK_THROWS_WITH_AS((void)token_log_probabilities(logits, 2, beyond), doctest::Contains("row 2 has no token 2"),
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)token_log_probabilities(logits, 3, beyond), doctest::Contains("2 rows for 3 tokens"),
                       std::invalid_argument);
  CHECK_THROWS_AS((void)token_log_probabilities(logits, 4, beyond), std::invalid_argument);
  CHECK_THROWS_AS((void)mean_nll({}), std::invalid_argument);
  CHECK_THROWS_AS((void)rms_probability_difference({}, {}), std::invalid_argument);
  CHECK_THROWS_AS((void)rms_probability_difference(first, std::span(second).first(2)), std::invalid_argument);
}

TEST_CASE("what is no row of logits is refused with its place") {
  const Row good = {0.0F, 1.0F, 2.0F, 3.0F};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS((void)compare_rows(good, Row{0.0F, 1.0F, 2.0F, nan}, 2),
                       doctest::Contains("row 1, column 1 is nan"), std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)compare_rows(Row{0.0F, -kMasked, 2.0F, 3.0F}, good, 2),
                       doctest::Contains("row 0, column 1 is inf"), std::invalid_argument);
  CHECK_THROWS_WITH_AS((void)compare_rows(good, Row{0.0F, 1.0F, kMasked, kMasked}, 2),
                       doctest::Contains("row 1 has no finite value"), std::invalid_argument);
  CHECK_THROWS_AS((void)compare_rows(good, good, 3), std::invalid_argument);
  CHECK_THROWS_AS((void)compare_rows(good, good, 0), std::invalid_argument);
  CHECK_THROWS_AS((void)compare_rows(Row{}, Row{}, 2), std::invalid_argument);
  CHECK_THROWS_AS((void)compare_rows(good, Row{0.0F, 1.0F}, 2), std::invalid_argument);
  CHECK_THROWS_AS((void)kl_divergence(good, Row{0.0F}), std::invalid_argument);
  CHECK_THROWS_AS((void)kl_divergence(Row{}, Row{}), std::invalid_argument);
  CHECK_THROWS_AS((void)top1_agrees(good, Row{0.0F}), std::invalid_argument);
  CHECK_THROWS_AS((void)top1_agrees(Row{}, Row{}), std::invalid_argument);
  CHECK_THROWS_AS((void)log_softmax(Row{}), std::invalid_argument);
}

}  // namespace
