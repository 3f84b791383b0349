#include "rag_demo/distribution_metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "rag_demo/exp_sums.hpp"

namespace rag_demo {
namespace {

// Returns the largest logit of the row.
float require_usable_row(std::span<const float> row, std::size_t row_index) {
  // A whole row at a time; which column it was is looked up only when there is one.
  constexpr float kFloatInfinity = std::numeric_limits<float>::infinity();
  constexpr std::size_t kLanes = 16;
  float largest[kLanes];
  std::ranges::fill(largest, -kFloatInfinity);
  bool all_below = true;
  for (std::size_t begin = 0; begin < row.size(); begin += kLanes) {
    const std::size_t size = std::min(kLanes, row.size() - begin);
    for (std::size_t lane = 0; lane < size; ++lane) {
      const float logit = row[begin + lane];
      all_below &= logit < kFloatInfinity;
      largest[lane] = logit > largest[lane] ? logit : largest[lane];
    }
  }
  for (std::size_t i = 0; i < row.size() && !all_below; ++i) {
    if (row[i] < kFloatInfinity) continue;
    throw std::invalid_argument("logits: row " + std::to_string(row_index) + ", column " + std::to_string(i) + " is " +
                                std::to_string(row[i]));
  }
  const float largest_of_all = *std::ranges::max_element(largest);
  if (largest_of_all == -kFloatInfinity) {
    throw std::invalid_argument("logits: row " + std::to_string(row_index) + " has no finite value");
  }
  return largest_of_all;
}

void require_same_size(std::size_t reference_size, std::size_t other_size) {
  if (reference_size != other_size) {
    throw std::invalid_argument("logits: " + std::to_string(reference_size) + " values compared with " +
                                std::to_string(other_size));
  }
}

// Returns their number.
std::size_t require_whole_rows(std::size_t size, std::size_t vocab_size) {
  if (vocab_size == 0 || size == 0 || size % vocab_size != 0) {
    throw std::invalid_argument("logits: " + std::to_string(size) + " values are no whole rows of " +
                                std::to_string(vocab_size));
  }
  return size / vocab_size;
}

// Log-probabilities of one row. The largest logit is taken out of each logit before the logarithm of the sum is, so
// that neither overflow nor a common offset costs precision.
class LogProbabilities {
 public:
  LogProbabilities(std::span<const float> row, float largest)
      : row_(row), largest_(largest), log_sum_(std::log(exp_sums(row, largest_).sum)) {}
  double operator[](std::size_t i) const { return static_cast<double>(row_[i]) - largest_ - log_sum_; }

 private:
  std::span<const float> row_;
  double largest_;
  double log_sum_;
};

double kl_of_usable_rows(std::span<const float> reference, float reference_largest, std::span<const float> other,
                         float other_largest) {
  const ExpSums sums = exp_sums(reference, reference_largest, other, other_largest);
  const double other_sum = exp_sums(other, other_largest).sum;
  return std::max(sums.weighted / sums.sum - std::log(sums.sum / other_sum), 0.0);
}

std::size_t top1(std::span<const float> row, float largest) {
  return static_cast<std::size_t>(std::ranges::find(row, largest) - row.begin());
}

}  // namespace

std::vector<double> log_softmax(std::span<const float> logits) {
  const LogProbabilities log_probabilities(logits, require_usable_row(logits, 0));
  std::vector<double> result(logits.size());
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = log_probabilities[i];
  return result;
}

double kl_divergence(std::span<const float> reference, std::span<const float> other) {
  require_same_size(reference.size(), other.size());
  return compare_rows(reference, other, reference.size()).mean_kl;
}

bool top1_agrees(std::span<const float> reference, std::span<const float> other) {
  require_same_size(reference.size(), other.size());
  return top1(reference, require_usable_row(reference, 0)) == top1(other, require_usable_row(other, 0));
}

DistributionComparison compare_rows(std::span<const float> reference, std::span<const float> other,
                                    std::size_t vocab_size) {
  require_same_size(reference.size(), other.size());
  DistributionComparison result;
  result.num_rows = require_whole_rows(reference.size(), vocab_size);
  double total_kl = 0.0;
  std::size_t num_agreeing = 0;
  for (std::size_t r = 0; r < result.num_rows; ++r) {
    const auto reference_row = reference.subspan(r * vocab_size, vocab_size);
    const auto other_row = other.subspan(r * vocab_size, vocab_size);
    const float reference_largest = require_usable_row(reference_row, r);
    const float other_largest = require_usable_row(other_row, r);
    const double kl = kl_of_usable_rows(reference_row, reference_largest, other_row, other_largest);
    total_kl += kl;
    result.max_kl = std::max(result.max_kl, kl);
    num_agreeing += top1(reference_row, reference_largest) == top1(other_row, other_largest) ? 1 : 0;
  }
  result.mean_kl = total_kl / static_cast<double>(result.num_rows);
  result.top1_agreement = static_cast<double>(num_agreeing) / static_cast<double>(result.num_rows);
  return result;
}

std::vector<double> token_log_probabilities(std::span<const float> logits, std::size_t vocab_size,
                                            std::span<const std::uint32_t> tokens) {
  const std::size_t num_rows = require_whole_rows(logits.size(), vocab_size);
  if (num_rows != tokens.size()) {
    throw std::invalid_argument("logits: " + std::to_string(num_rows) + " rows for " + std::to_string(tokens.size()) +
                                " tokens");
  }
  std::vector<double> result;
  result.reserve(num_rows);
  for (std::size_t r = 0; r < num_rows; ++r) {
    if (tokens[r] >= vocab_size) {
      throw std::invalid_argument("logits: row " + std::to_string(r) + " has no token " + std::to_string(tokens[r]) +
                                  ", its vocabulary is " + std::to_string(vocab_size));
    }
    const auto row = logits.subspan(r * vocab_size, vocab_size);
    result.push_back(LogProbabilities(row, require_usable_row(row, r))[tokens[r]]);
  }
  return result;
}

double mean_nll(std::span<const double> token_log_probabilities) {
  if (token_log_probabilities.empty()) throw std::invalid_argument("negative log-likelihood: no tokens");
  double sum = 0.0;
  for (const double log_probability : token_log_probabilities) sum -= log_probability;
  return sum / static_cast<double>(token_log_probabilities.size());
}

double rms_probability_difference(std::span<const double> reference, std::span<const double> other) {
  if (reference.empty() || reference.size() != other.size()) {
    throw std::invalid_argument("probabilities: " + std::to_string(reference.size()) + " tokens compared with " +
                                std::to_string(other.size()));
  }
  double sum = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double difference = std::exp(other[i]) - std::exp(reference[i]);
    sum += difference * difference;
  }
  return std::sqrt(sum / static_cast<double>(reference.size()));
}

}  // namespace rag_demo
