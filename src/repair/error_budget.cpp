#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <utility>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {
namespace {

std::vector<double> log_probabilities(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  std::vector<double> result(logits.size());
  std::transform(logits.begin(), logits.end(), result.begin(),
                 [shift = largest + std::log(sum)](float logit) { return double{logit} - shift; });
  return result;
}

/// KL(later || earlier), in nats.
double change(const std::vector<double>& later, const std::vector<double>& earlier) {
  double sum = 0;
  for (std::size_t i = 0; i < later.size(); ++i) {
    const double probability = std::exp(later[i]);
    if (probability > 0) sum += probability * (later[i] - earlier[i]);
  }
  return sum;
}

/// The tolerance as a divergence.
double as_divergence(const ErrorBudgetOptions& options) {
  const bool is_kl = options.unit == ErrorBudgetOptions::Unit::kKl;
  return is_kl ? options.tolerance : 2 * options.tolerance * options.tolerance;
}

/// How far a chunk's token is off, but for a factor: the more of its chunk stands before it, the less it misses what
/// does not. Measured; docs/repair.md.
float expected_drift(std::int64_t chunk_token) { return 1 / std::sqrt(4 + static_cast<float>(chunk_token)); }

class ErrorBudgetRun final : public RepairRun {
 public:
  ErrorBudgetRun(const ErrorBudgetOptions& options, const RepairRequest& request)
      : options_(options),
        tolerance_(as_divergence(options)),
        plan_(request.plan),
        rows_(detail::approximate_rows(request.plan)),
        num_layers_(request.num_layers),
        most_(detail::rows_of_fraction(options.most, rows_.size())),
        num_wanted_(tolerance_ == 0 ? most_ : std::min(most_, detail::rows_of_fraction(options.start, rows_.size()))),
        attention_(static_cast<std::size_t>(request.plan.num_rows())) {}

  std::optional<RepairPass> next() override {
    if (is_done_) return std::nullopt;
    RepairPass pass{.rows = {}, .probes = {}};
    if (num_passes_ > 0) {
      pass.rows = detail::top_rows(attention_, rows_, num_wanted_ - num_repaired_);
      pass.key_drift_gain = static_cast<float>(options_.key_gain);
      pass.value_drift_gain = static_cast<float>(options_.value_gain);
      std::vector<std::int32_t> others;
      std::set_difference(rows_.begin(), rows_.end(), pass.rows.begin(), pass.rows.end(), std::back_inserter(others));
      rows_ = std::move(others);
      num_repaired_ = num_wanted_;
      // Doubled; a pass over fewer rows than are done by then would not be worth its question.
      num_wanted_ = most_ < 3 * num_repaired_ ? most_ : 2 * num_repaired_;
    }
    ++num_passes_;
    is_done_ = num_repaired_ >= most_;
    if (!is_done_) {
      pass.attention = {.end_layer = num_layers_, .from = RepairAttention::From::kQuestionAndAnswer};
    }
    return pass;
  }

  void on_attention(std::span<const float> attention) override {
    attention_.assign(attention.begin(), attention.end());
    for (const detail::ApproximatePiece& piece : detail::approximate_pieces(plan_)) {
      for (const std::int32_t row : piece.rows) {
        attention_[static_cast<std::size_t>(row)] *= expected_drift(piece.chunk_token(row));
      }
    }
  }

  void on_logits(std::span<const float> logits) override {
    std::vector<double> now = log_probabilities(logits);
    if (num_repaired_ > 0 && change(now, before_) <= tolerance_) is_done_ = true;
    before_ = std::move(now);
  }

  [[nodiscard]] bool wants_logits() const override { return tolerance_ > 0 && !is_done_; }

 private:
  ErrorBudgetOptions options_;
  double tolerance_;  // as a divergence
  const CompositionPlan& plan_;
  std::vector<std::int32_t> rows_;  // not repaired yet
  std::int32_t num_layers_;
  std::size_t most_;        // rows to repair
  std::size_t num_wanted_;  // when the next pass is through
  std::size_t num_repaired_ = 0;
  int num_passes_ = 0;
  bool is_done_ = false;
  std::vector<float> attention_;  // of the last pass by expected drift, [rows of the prompt]
  std::vector<double> before_;    // log-probabilities behind the last pass
};

}  // namespace

Result<std::unique_ptr<RepairPolicy>> make_error_budget_repair(const ErrorBudgetOptions& options) {
  if (!(options.tolerance >= 0) || !std::isfinite(options.tolerance)) {
    return invalid_argument("budget: tolerance: " + std::to_string(options.tolerance) +
                            " is not a finite number from 0");
  }
  PIKV_TRY(detail::check_fraction("budget", "most", options.most));
  PIKV_TRY(detail::check_fraction("budget", "start", options.start));
  if (options.start == 0) return invalid_argument("budget: start: 0 would repair nothing");
  PIKV_TRY(detail::check_fraction("budget", "keys", options.key_gain));
  PIKV_TRY(detail::check_fraction("budget", "values", options.value_gain));
  const ErrorBudgetOptions defaults;
  std::string name = "budget:" + detail::spec_text(options.tolerance);
  if (options.unit != defaults.unit) name += ",unit=" + detail::spec_text(options.unit);
  const auto add = [&name](const char* field, double value, double usual) {
    if (value != usual) name += std::string(",") + field + "=" + detail::spec_text(value);
  };
  add("most", options.most, defaults.most);
  add("start", options.start, defaults.start);
  add("keys", options.key_gain, defaults.key_gain);
  add("values", options.value_gain, defaults.value_gain);
  return detail::make_policy(
      {.name = name, .begin = [options](const RepairRequest& request) -> Result<std::unique_ptr<RepairRun>> {
         return std::unique_ptr<RepairRun>(std::make_unique<ErrorBudgetRun>(options, request));
       }});
}

}  // namespace v0

namespace detail {

PolicyResult error_budget_from(PolicySpec& spec) {
  ErrorBudgetOptions options;
  PIKV_TRY(spec.value("tolerance", options.tolerance));
  PIKV_TRY(spec.option("unit", options.unit));
  PIKV_TRY(spec.option("most", options.most));
  PIKV_TRY(spec.option("start", options.start));
  PIKV_TRY(spec.option("keys", options.key_gain));
  PIKV_TRY(spec.option("values", options.value_gain));
  PIKV_TRY(spec.finish());
  return make_error_budget_repair(options);
}

}  // namespace detail
}  // namespace pikv
