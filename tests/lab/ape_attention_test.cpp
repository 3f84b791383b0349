// APE against plain attention where both say the same, and against its formulas in double precision.
#include "lab/ape_attention.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "lab/prompt_runs.hpp"
#include "mini_engine/error.hpp"

namespace {

using lab::ApeAttention;
using lab::ApeOptions;
using lab::ApeRows;
using mini_engine::Sequence;
using mini_engine::TokenId;
using Tokens = std::vector<TokenId>;

constexpr ApeOptions kNeutral{.temperature = 1.0, .scale = 1.0};

struct World : test_support::LabWorld {
  mini_engine::ThreadPool pool{2};
  Tokens prefix = test_support::random_tokens(9, 101, 11);
  Tokens question = test_support::random_tokens(13, 101, 12);

  /// A prompt with each context encoded behind the prefix alone; the question's rows are not computed yet.
  Sequence parallel(const std::vector<Tokens>& contexts) {
    Sequence sequence = computed(prefix);
    for (const Tokens& context : contexts) {
      Tokens tokens = prefix;
      tokens.insert(tokens.end(), context.begin(), context.end());
      const Sequence alone = computed(tokens);
      const std::int32_t to = sequence.size();
      sequence.grow(static_cast<int>(context.size()));
      test_support::copy_rows(alone, static_cast<std::int32_t>(prefix.size()),
                              static_cast<std::int32_t>(context.size()), sequence, to);
    }
    return sequence;
  }

  /// Computes tokens behind what the sequence has; logits of all.
  std::vector<float> append(Sequence& sequence, const Tokens& tokens, mini_engine::PassObserver* observer) {
    const int begin = sequence.size();
    sequence.grow(static_cast<int>(tokens.size()));
    Tokens padded(static_cast<std::size_t>(begin));
    padded.insert(padded.end(), tokens.begin(), tokens.end());
    return test_support::run_rows(model, sequence, padded, begin, sequence.size(), {}, observer);
  }
};

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
  return largest;
}

TEST_CASE("one context behind the prefix, with T = s = 1, is plain attention") {
  World world;
  const Tokens context = test_support::random_tokens(31, 101, 13);
  Tokens prompt = world.prefix;
  prompt.insert(prompt.end(), context.begin(), context.end());
  Sequence plain = world.computed(prompt);
  Sequence sequence = world.parallel({context});
  const ApeRows rows{.prefix = 9, .contexts = {31}};
  ApeAttention ape(world.model, sequence, rows, kNeutral, world.pool);
  CHECK(largest_difference(world.append(sequence, world.question, &ape), world.append(plain, world.question, nullptr)) <
        1e-4F);
  for (const TokenId decoded : Tokens{5, 88, 17}) {
    CHECK(largest_difference(world.append(sequence, {decoded}, &ape), world.append(plain, {decoded}, nullptr)) < 1e-4F);
  }

  // The same rows say something else under another temperature or scale, so it was the observer that attended.
  for (const ApeOptions& options : {ApeOptions{0.8, 1.0}, ApeOptions{1.0, 0.8}}) {
    Sequence again = world.parallel({context});
    Sequence plain_again = world.computed(prompt);
    ApeAttention other(world.model, again, rows, options, world.pool);
    CHECK(largest_difference(world.append(again, world.question, &other),
                             world.append(plain_again, world.question, nullptr)) > 1e-2F);
  }
}

TEST_CASE("without contexts, and over the prefix itself, APE is plain attention at any T and s") {
  World world;
  Sequence plain(world.cache);
  Sequence sequence(world.cache);
  const std::vector<float> plain_prefix = world.append(plain, world.prefix, nullptr);
  const std::vector<float> plain_question = world.append(plain, world.question, nullptr);

  ApeAttention none(world.model, sequence, {.prefix = 9}, {}, world.pool);
  CHECK(largest_difference(world.append(sequence, world.prefix, &none), plain_prefix) < 1e-4F);
  CHECK(largest_difference(world.append(sequence, world.question, &none), plain_question) < 1e-4F);

  Sequence with_contexts(world.cache);
  ApeAttention some(world.model, with_contexts, {.prefix = 9, .contexts = {4, 20}}, {}, world.pool);
  CHECK(largest_difference(world.append(with_contexts, world.prefix, &some), plain_prefix) < 1e-4F);
}

TEST_CASE("prefix and question in one pass are what they are in two") {
  World world;
  const std::vector<Tokens> contexts = {test_support::random_tokens(11, 101, 14),
                                        test_support::random_tokens(24, 101, 15)};
  const ApeRows rows{.prefix = 9, .contexts = {11, 24}};
  Sequence in_two = world.parallel(contexts);
  ApeAttention ape_of_two(world.model, in_two, rows, {}, world.pool);
  const std::vector<float> expected = world.append(in_two, world.question, &ape_of_two);

  Sequence in_one = world.parallel(contexts);
  for (int layer = 0; layer < 3; ++layer) {
    for (std::int32_t row = 0; row < 9; ++row) {
      test_support::with_row(in_one, layer, row, [](float* key, float* value) {
        std::fill_n(key, 32, 50.0F);
        std::fill_n(value, 32, 50.0F);
      });
    }
  }
  in_one.grow(13);
  std::vector<std::int32_t> computed = test_support::range(0, 9);
  Tokens tokens = world.prefix;
  for (int i = 0; i < 13; ++i) computed.push_back(44 + i);
  tokens.insert(tokens.end(), world.question.begin(), world.question.end());
  ApeAttention ape(world.model, in_one, rows, {}, world.pool);
  const std::vector<std::int32_t> logit_rows = test_support::range(9, 22);
  CHECK(largest_difference(
            world.model.forward(
                {.tokens = tokens, .rows = computed, .logit_rows = logit_rows, .documents = {}, .observer = &ape},
                in_one),
            expected) < 1e-4F);
}

/// Vectors at a position, in double precision.
struct Turned {
  std::vector<double> raw;  // [D]
  [[nodiscard]] std::vector<double> at(int position) const {
    const std::size_t half = raw.size() / 2;
    std::vector<double> out(raw.size());
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = position * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
      out[i] = raw[i] * std::cos(angle) - raw[i + half] * std::sin(angle);
      out[i + half] = raw[i + half] * std::cos(angle) + raw[i] * std::sin(angle);
    }
    return out;
  }
};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// One part of the attention of one query: its output, and the logarithm of the sum of its exponentials.
struct Part {
  explicit Part(std::size_t head_dim) : output(head_dim) {}
  void add(double score, const std::vector<double>& value) {
    sum += std::exp(score);
    for (std::size_t d = 0; d < value.size(); ++d) output[d] += std::exp(score) * value[d];
  }
  std::vector<double> output;  // not yet divided by the sum
  double sum = 0;
};

TEST_CASE("two contexts, by the formulas") {
  const mini_engine::ModelConfig config = test_support::small_config();
  World world;
  constexpr int kPrefix = 9, kShort = 14, kLong = 40, kFirstQuestion = kPrefix + kShort + kLong, kNumQuestion = 7;
  constexpr int kNumRows = kFirstQuestion + kNumQuestion;
  const ApeRows rows{.prefix = kPrefix, .contexts = {kShort, kLong}};
  CHECK(rows.first_question_row() == kFirstQuestion);
  CHECK(rows.question_shift() == kShort);
  // Where a row stands: contexts side by side behind the prefix, the question behind the longer one.
  const auto position = [&](int row) {
    if (row >= kFirstQuestion) return row - kFirstQuestion + kPrefix + kLong;
    return row < kPrefix + kShort ? row : row - kShort;
  };

  std::mt19937 random(21);
  std::normal_distribution<double> normal(0.0, 1.2);
  const auto made_up = [&] {
    Turned vector{std::vector<double>(static_cast<std::size_t>(config.head_dim))};
    for (double& x : vector.raw) x = normal(random);
    return vector;
  };
  constexpr int kLayer = 1;
  Sequence sequence(world.cache);
  sequence.grow(kNumRows);
  std::vector<std::vector<Turned>> keys(kNumRows), values(kNumRows);  // [N][H]
  for (int row = 0; row < kNumRows; ++row) {
    const bool is_question = row >= kFirstQuestion;
    for (int head = 0; head < config.num_kv_heads; ++head) {
      const Turned key = made_up(), value = made_up();
      keys[static_cast<std::size_t>(row)].push_back(key);
      values[static_cast<std::size_t>(row)].push_back(value);
      // The engine turns the question's keys to their rows.
      const std::vector<double> cached = key.at(is_question ? row : position(row));
      test_support::with_row(sequence, kLayer, row, [&](float* key_row, float* value_row) {
        std::copy(cached.begin(), cached.end(), key_row + head * config.head_dim);
        std::copy(value.raw.begin(), value.raw.end(), value_row + head * config.head_dim);
      });
    }
  }

  // Two passes: the question, of which one row is left out, and one row that is decoded.
  const ApeOptions options{.temperature = 0.85, .scale = 0.7};
  ApeAttention ape(world.model, sequence, rows, options, world.pool);
  const double root = std::sqrt(static_cast<double>(config.head_dim));
  for (const std::vector<std::int32_t>& computed :
       {std::vector<std::int32_t>{63, 64, 66, 67, 68}, std::vector<std::int32_t>{69}}) {
    std::vector<float> queries;
    std::vector<double> expected;
    for (const std::int32_t row : computed) {
      for (int head = 0; head < config.num_heads; ++head) {
        const Turned query = made_up();
        for (const double x : query.at(row)) queries.push_back(static_cast<float>(x));
        const std::vector<double> stands = query.at(position(row));
        const auto kv_head = static_cast<std::size_t>(head / (config.num_heads / config.num_kv_heads));
        Part context(stands.size()), other(stands.size());
        for (int key = 0; key <= row; ++key) {
          const auto at = static_cast<std::size_t>(key);
          const double product = dot(stands, keys[at][kv_head].at(position(key)));
          if (key >= kPrefix && key < kFirstQuestion) {
            context.add(product / (root * options.temperature), values[at][kv_head].raw);
          } else {
            other.add(product / root, values[at][kv_head].raw);
          }
        }
        const double context_share = std::exp(options.scale * options.temperature * std::log(context.sum));
        const double other_share = std::exp(std::log(other.sum));
        for (std::size_t d = 0; d < stands.size(); ++d) {
          expected.push_back(
              (context_share * context.output[d] / context.sum + other_share * other.output[d] / other.sum) /
              (context_share + other_share));
        }
      }
    }
    std::vector<float> out(queries.size());
    REQUIRE(ape.attend(kLayer, {.rows = computed, .row_stride = 6 * 16, .data = queries.data()}, out.data()));
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::fabs(double{out[i]} - expected[i]) < 2e-5);
  }
}

TEST_CASE("APE refuses what it has no meaning for") {
  World world;
  Sequence sequence = world.parallel({Tokens(5), Tokens(6)});
  const auto make = [&](const ApeRows& rows, const ApeOptions& options) {
    return ApeAttention(world.model, sequence, rows, options, world.pool);
  };
  CHECK_THROWS_WITH_AS((void)make({.prefix = 9}, {.temperature = 0.0}), "APE: temperature is 0.000000, not positive",
                       mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)make({.prefix = 9}, {.scale = std::nan("")}), "APE: scale is nan, not positive",
                       mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)make({.prefix = -1}, {}), "APE: the prefix has -1 rows", mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)make({.prefix = 9, .contexts = {5, -6}}, {}), "APE: context 1 has -6 rows",
                       mini_engine::Error);
  ApeAttention ape = make({.prefix = 9, .contexts = {5, 6}}, {});
  const Tokens tokens(20);
  CHECK_THROWS_WITH_AS((void)test_support::run_rows(world.model, sequence, tokens, 13, 20, {}, &ape),
                       "APE: row 13 is of a context, which is encoded apart from this prompt", mini_engine::Error);
}

}  // namespace
