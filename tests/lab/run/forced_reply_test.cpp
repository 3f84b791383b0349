// What the answer's predictions are compared by, against the same in double written out.
#include "lab/run/forced_reply.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace {

using mini_engine::TokenId;
using Tokens = std::vector<TokenId>;
using Logits = std::vector<float>;

constexpr std::size_t kVocab = 7;
constexpr TokenId kEos = 6;

/// A model without attention: what follows depends on how many tokens there are and on the last.
struct Toy {
  explicit Toy(unsigned of) : seed(of) {}
  unsigned seed;
  Tokens appended{};

  [[nodiscard]] Logits row(std::size_t count, TokenId last) const {
    std::mt19937 random(seed + 1000 * static_cast<unsigned>(count) + 10 * last);
    Logits logits(kVocab);
    for (float& x : logits) x = static_cast<float>(random() % 1000) / 200.0F;
    return logits;
  }
  [[nodiscard]] Logits first() const { return row(0, 0); }
  [[nodiscard]] lab::Extend extend() {
    return [this](std::span<const TokenId> tokens, std::size_t first_logit) {
      Logits all;
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        appended.push_back(tokens[i]);
        const Logits next = row(appended.size(), tokens[i]);
        if (i >= first_logit) all.insert(all.end(), next.begin(), next.end());
      }
      return all;
    };
  }
};

std::vector<double> probabilities(const Logits& logits) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : logits) sum += p.emplace_back(std::exp(double{x}));
  for (double& x : p) x /= sum;
  return p;
}

TokenId best(const Logits& logits, bool with_eos) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end() - (with_eos ? 0 : 1)) - logits.begin());
}

/// Greedy, up to so many tokens or the end.
Tokens greedy(const Toy& toy, std::size_t most) {
  Tokens reply;
  for (TokenId next = best(toy.first(), true); next != kEos && reply.size() < most;) {
    reply.push_back(next);
    next = best(toy.row(reply.size(), next), true);
  }
  return reply;
}

TEST_CASE("KL, first places, probabilities and the answer") {
  constexpr std::size_t kForced = 5;
  for (unsigned seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    Toy reference(seed);
    const lab::ForcedReply forced(reference.first(), std::vector<TokenId>{kEos}, kForced, reference.extend());
    Toy other(seed % 2 == 0 ? seed : seed + 500);
    const lab::ReplyComparison found = forced.compare(
        other.first(), other.extend(), [&](std::size_t kept) { other.appended.resize(kept); }, true);

    const Toy full(seed);
    const Toy arm(other.seed);
    TokenId last = 0;
    double same = 0, squares = 0;
    REQUIRE(found.kl.size() == kForced);
    for (std::size_t i = 0; i < kForced; ++i) {
      const std::vector<double> p = probabilities(full.row(i, last)), q = probabilities(arm.row(i, last));
      double kl = 0;
      for (std::size_t token = 0; token < kVocab; ++token) kl += p[token] * std::log(p[token] / q[token]);
      CHECK(found.kl[i] == doctest::Approx(kl).epsilon(1e-5));
      same += best(full.row(i, last), true) == best(arm.row(i, last), true) ? 1 : 0;
      const TokenId next = best(full.row(i, last), false);
      squares += (p[next] - q[next]) * (p[next] - q[next]);
      last = next;
    }
    CHECK(found.top1 == doctest::Approx(same / kForced));
    CHECK(found.rms_dp == doctest::Approx(std::sqrt(squares / kForced)).epsilon(1e-5));
    REQUIRE(found.generated.has_value());
    CHECK(*found.generated == greedy(arm, kForced));
  }
}

TEST_CASE("likelihood of given tokens") {
  Toy toy(3);
  const Tokens tokens = {2, 5, 1};
  double sum = 0;
  TokenId last = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    sum -= std::log(probabilities(toy.row(i, last))[tokens[i]]);
    last = tokens[i];
  }
  CHECK(lab::mean_nll(toy.first(), tokens, toy.extend()) == doctest::Approx(sum / 3).epsilon(1e-6));
}

}  // namespace
