// Two passes' attention against distributions worked out in double precision.
#include "lab/attention_similarity.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "lab/cached_rows.hpp"
#include "lab/prompt_runs.hpp"
#include "mini_engine/error.hpp"

namespace {

using lab::AttentionSimilarity;
using lab::AttentionSource;
using lab::QueryCapture;
using lab::RowRange;
using mini_engine::CacheMemory;
using mini_engine::Sequence;
using Rows = std::vector<std::int32_t>;

constexpr int kNumRows = 60;
constexpr int kFirstQuestionRow = 52;
const std::vector<RowRange> kPassages = {{0, 5}, {5, 30}, {30, 52}, {52, 60}};

/// The attention of one row over keys [0, row].
std::vector<double> distribution(const AttentionSource& source, int layer, int head, std::size_t index) {
  const lab::QueryRows& queries = source.queries->layer(layer);
  const Rows keys = test_support::range(0, queries.rows[index] + 1);
  const std::vector<float> cached = lab::read_keys(*source.sequence, layer, keys);
  std::vector<double> weights;
  double sum = 0;
  for (std::size_t key = 0; key < keys.size(); ++key) {
    double score = 0;
    for (std::size_t d = 0; d < 16; ++d) {
      score += double{queries.elements[(index * 6 + static_cast<std::size_t>(head)) * 16 + d]} *
               double{cached[(key * 2 + static_cast<std::size_t>(head / 3)) * 16 + d]};
    }
    weights.push_back(std::exp(score / 4.0));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

struct Expected {
  double cosine = 0, divergence = 0;
  std::vector<double> full_mass = std::vector<double>(kPassages.size());
};

Expected expected(const AttentionSource& full, const AttentionSource& arm, int layer, int head) {
  Expected result;
  const std::size_t num_rows = full.queries->layer(layer).rows.size();
  for (std::size_t r = 0; r < num_rows; ++r) {
    const std::vector<double> p = distribution(full, layer, head, r), q = distribution(arm, layer, head, r);
    double product = 0, p_square = 0, q_square = 0;
    for (std::size_t key = 0; key < p.size(); ++key) {
      product += p[key] * q[key];
      p_square += p[key] * p[key];
      q_square += q[key] * q[key];
      const double middle = (p[key] + q[key]) / 2;
      result.divergence += 0.5 * (p[key] * std::log(p[key] / middle) + q[key] * std::log(q[key] / middle));
      for (std::size_t i = 0; i < kPassages.size(); ++i) {
        const auto at = static_cast<std::int32_t>(key);
        if (at >= kPassages[i].begin && at < kPassages[i].end) result.full_mass[i] += p[key];
      }
    }
    result.cosine += product / std::sqrt(p_square * q_square);
  }
  result.cosine /= static_cast<double>(num_rows);
  result.divergence /= static_cast<double>(num_rows);
  for (double& mass : result.full_mass) mass /= static_cast<double>(num_rows);
  return result;
}

struct World : test_support::LabWorld {
  mini_engine::ThreadPool pool{2};
  std::vector<mini_engine::TokenId> tokens = test_support::random_tokens(kNumRows, 101, 3);
  Rows question = test_support::range(kFirstQuestionRow, kNumRows);
  QueryCapture full_queries{model.config(), CacheMemory::kHost, question};
  Sequence full = computed(tokens, &full_queries);
  QueryCapture arm_queries{model.config(), CacheMemory::kHost, question};

  /// The same prompt with other K and V in rows [10, 30): those of other tokens, shared by `share`.
  Sequence arm_of(float share) {
    auto others = tokens;
    for (std::size_t i = 10; i < 30; ++i) others[i] = (others[i] + 7) % 101;
    const Sequence other = computed(others);
    Sequence arm = computed(tokens);
    for (int layer = 0; layer < 3; ++layer) {
      for (std::int32_t row = 10; row < 30; ++row) {
        test_support::with_row(other, layer, row, [&](const float* key, const float* value) {
          test_support::with_row(arm, layer, row, [&](float* arm_key, float* arm_value) {
            for (int i = 0; i < 32; ++i) {
              arm_key[i] += share * (key[i] - arm_key[i]);
              arm_value[i] += share * (value[i] - arm_value[i]);
            }
          });
        });
      }
    }
    (void)test_support::run_rows(model, arm, tokens, kFirstQuestionRow, kNumRows, {}, &arm_queries);
    return arm;
  }
};

TEST_CASE("the same attention is alike") {
  World world;
  const AttentionSource full{&world.full, &world.full_queries};
  const AttentionSimilarity same = lab::compare_attention(world.model.config(), full, full, kPassages, world.pool);
  REQUIRE(same.cosine.size() == 18);
  REQUIRE(same.full_mass.size() == 18 * kPassages.size());
  for (std::size_t i = 0; i < 18; ++i) {
    CHECK(same.cosine[i] == doctest::Approx(1.0).epsilon(1e-12));
    CHECK(same.divergence[i] == 0.0);
    double mass = 0;
    for (std::size_t passage = 0; passage < kPassages.size(); ++passage) mass += same.full_mass[i * 4 + passage];
    CHECK(mass == doctest::Approx(1.0).epsilon(1e-5));
  }
  CHECK(same.full_mass == same.arm_mass);
}

TEST_CASE("attention near to and far from each other") {
  // From all but equal, where a divergence is the square of tiny differences, to other keys altogether.
  double largest = 0;
  for (const float share : {1e-3F, 0.2F, 1.0F}) {
    World world;
    const Sequence changed = world.arm_of(share);
    const AttentionSource full{&world.full, &world.full_queries};
    const AttentionSource arm{&changed, &world.arm_queries};
    const AttentionSimilarity got = lab::compare_attention(world.model.config(), full, arm, kPassages, world.pool);
    const AttentionSimilarity back = lab::compare_attention(world.model.config(), arm, full, kPassages, world.pool);
    CHECK(back.arm_mass == got.full_mass);
    CHECK(back.full_mass == got.arm_mass);
    for (int layer = 0; layer < 3; ++layer) {
      for (int head = 0; head < 6; ++head) {
        const Expected want = expected(full, arm, layer, head);
        const auto i = static_cast<std::size_t>(layer * 6 + head);
        CHECK(got.cosine[i] == doctest::Approx(want.cosine).epsilon(1e-5));
        // A divergence is a sum of squares: what fp32 scores round off counts times its root.
        CHECK(std::fabs(got.divergence[i] - want.divergence) <
              1e-5 * want.divergence + 3e-6 * std::sqrt(want.divergence));
        CHECK(back.divergence[i] == doctest::Approx(got.divergence[i]).epsilon(1e-6));
        for (std::size_t passage = 0; passage < kPassages.size(); ++passage) {
          CHECK(got.full_mass[i * kPassages.size() + passage] ==
                doctest::Approx(want.full_mass[passage]).epsilon(1e-5));
        }
        largest = std::max(largest, want.divergence);
      }
    }
  }
  CHECK(largest > 0.1);
  CHECK(largest < std::numbers::ln2);
}

TEST_CASE("what cannot be compared is refused") {
  World world;
  const AttentionSource full{&world.full, &world.full_queries};
  const auto compare = [&](const AttentionSource& arm, const std::vector<RowRange>& passages) {
    return lab::compare_attention(world.model.config(), full, arm, passages, world.pool);
  };
  CHECK_THROWS_WITH_AS((void)compare({&world.full, &world.arm_queries}, {}),
                       doctest::Contains("layer 0 has not the queries of the same rows in both"), mini_engine::Error);
  CHECK_THROWS_WITH_AS(
      (void)lab::compare_attention(world.model.config(), {&world.full, &world.arm_queries}, full, {}, world.pool),
      doctest::Contains("layer 0 has no queries"), mini_engine::Error);
  Sequence shorter = world.computed(std::span(world.tokens).first(kNumRows - 1));
  CHECK_THROWS_WITH_AS((void)compare({&shorter, &world.full_queries}, {}),
                       doctest::Contains("row 59, a sequence has only 59 rows"), mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)compare(full, {{0, 2}, {50, 61}}),
                       doctest::Contains("passage 1 is rows [50, 61) of a sequence of 60"), mini_engine::Error);
}

}  // namespace
