// How far two models' next-token distributions lie apart: the measure that sees a loss of quality long before the
// chosen words change.
//
// Logits are fp32, all arithmetic is in double. A logit may be minus infinity (a masked token); NaN, plus infinity and
// a row with no finite logit throw std::invalid_argument naming the row and column. Every function is pure and
// thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rag_demo {

/// Natural logarithms of the probabilities. logits: [V], V at least 1.
[[nodiscard]] std::vector<double> log_softmax(std::span<const float> logits);

/// KL(reference || other) in nats: 0 for equal distributions, infinite where `other` rules out a token that
/// `reference` allows. Rounding cannot make it negative. reference, other: [V].
[[nodiscard]] double kl_divergence(std::span<const float> reference, std::span<const float> other);

/// Whether both rows put the same token first; among equal logits the lowest id counts as first, as in greedy
/// sampling. reference, other: [V].
[[nodiscard]] bool top1_agrees(std::span<const float> reference, std::span<const float> other);

struct DistributionComparison {
  std::size_t num_rows = 0;
  double mean_kl = 0.0;         ///< nats
  double max_kl = 0.0;          ///< nats
  double top1_agreement = 0.0;  ///< share of rows, in [0, 1]
};

/// reference, other: [R, V] row-major and dense, with V = vocab_size and R at least 1; throws std::invalid_argument
/// when the sizes differ or are no positive multiple of vocab_size.
[[nodiscard]] DistributionComparison compare_rows(std::span<const float> reference, std::span<const float> other,
                                                  std::size_t vocab_size);

/// Natural logarithms of the probabilities of given tokens, one a row; minus infinity for a masked one. logits: [R, V]
/// as for compare_rows(); tokens: [R], each below V, or std::invalid_argument.
[[nodiscard]] std::vector<double> token_log_probabilities(std::span<const float> logits, std::size_t vocab_size,
                                                          std::span<const std::uint32_t> tokens);

/// Negative log-likelihood per token, in nats. Throws std::invalid_argument for none.
[[nodiscard]] double mean_nll(std::span<const double> token_log_probabilities);

/// Root of the mean square of the differences of the tokens' probabilities, in [0, 1]; from their logarithms. Throws
/// std::invalid_argument for none, or not as many in both.
[[nodiscard]] double rms_probability_difference(std::span<const double> reference, std::span<const double> other);

}  // namespace rag_demo
