// Distances between distributions, worked out by hand.
#include "rag_demo/distribution_metrics.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

namespace {

using rag_demo::compare_rows;
using rag_demo::DistributionComparison;
using rag_demo::kl_divergence;
using rag_demo::log_softmax;
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
