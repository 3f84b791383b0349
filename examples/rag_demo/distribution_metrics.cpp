#include "rag_demo/distribution_metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace rag_demo {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void require_usable_row(std::span<const float> row, std::size_t row_index) {
  bool has_finite = false;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (std::isnan(row[i]) || row[i] == std::numeric_limits<float>::infinity()) {
      throw std::invalid_argument("logits: row " + std::to_string(row_index) + ", column " + std::to_string(i) +
                                  " is " + std::to_string(row[i]));
    }
    has_finite = has_finite || std::isfinite(row[i]);
  }
  if (!has_finite) throw std::invalid_argument("logits: row " + std::to_string(row_index) + " has no finite value");
}

void require_same_size(std::size_t reference_size, std::size_t other_size) {
  if (reference_size != other_size) {
    throw std::invalid_argument("logits: " + std::to_string(reference_size) + " values compared with " +
                                std::to_string(other_size));
  }
}

// Log-probabilities of one row. The largest logit is taken out of each logit before the logarithm of the sum is, so
// that neither overflow nor a common offset costs precision.
class LogProbabilities {
 public:
  explicit LogProbabilities(std::span<const float> row) : row_(row), largest_(*std::ranges::max_element(row)) {
    double sum = 0.0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit) - largest_);
    log_sum_ = std::log(sum);
  }
  double operator[](std::size_t i) const { return static_cast<double>(row_[i]) - largest_ - log_sum_; }

 private:
  std::span<const float> row_;
  double largest_;
  double log_sum_;
};

double kl_of_usable_rows(std::span<const float> reference, std::span<const float> other) {
  const LogProbabilities reference_log(reference);
  const LogProbabilities other_log(other);
  double kl = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = std::exp(reference_log[i]);
    if (p == 0.0) continue;
    if (std::isinf(other[i])) return kInfinity;
    kl += p * (reference_log[i] - other_log[i]);
  }
  return std::max(kl, 0.0);
}

std::size_t top1(std::span<const float> row) {
  return static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
}

}  // namespace

std::vector<double> log_softmax(std::span<const float> logits) {
  require_usable_row(logits, 0);
  const LogProbabilities log_probabilities(logits);
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
  require_usable_row(reference, 0);
  require_usable_row(other, 0);
  return top1(reference) == top1(other);
}

DistributionComparison compare_rows(std::span<const float> reference, std::span<const float> other,
                                    std::size_t vocab_size) {
  require_same_size(reference.size(), other.size());
  if (vocab_size == 0 || reference.empty() || reference.size() % vocab_size != 0) {
    throw std::invalid_argument("logits: " + std::to_string(reference.size()) + " values are no whole rows of " +
                                std::to_string(vocab_size));
  }
  DistributionComparison result;
  result.num_rows = reference.size() / vocab_size;
  double total_kl = 0.0;
  std::size_t num_agreeing = 0;
  for (std::size_t r = 0; r < result.num_rows; ++r) {
    const auto reference_row = reference.subspan(r * vocab_size, vocab_size);
    const auto other_row = other.subspan(r * vocab_size, vocab_size);
    require_usable_row(reference_row, r);
    require_usable_row(other_row, r);
    const double kl = kl_of_usable_rows(reference_row, other_row);
    total_kl += kl;
    result.max_kl = std::max(result.max_kl, kl);
    num_agreeing += top1(reference_row) == top1(other_row) ? 1 : 0;
  }
  result.mean_kl = total_kl / static_cast<double>(result.num_rows);
  result.top1_agreement = static_cast<double>(num_agreeing) / static_cast<double>(result.num_rows);
  return result;
}

}  // namespace rag_demo
