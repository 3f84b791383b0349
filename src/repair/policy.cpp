#include "repair/policy.hpp"

#include <limits>
#include <utility>

#include "repair/policy_spec.hpp"
#include "repair/row_choice.hpp"

namespace pikv::detail {
namespace {

class PolicyOfParts final : public RepairPolicy {
 public:
  explicit PolicyOfParts(PolicyParts parts) : parts_(std::move(parts)) {}

  std::string name() const override { return parts_.name; }
  bool knows_rows_ahead() const override { return parts_.knows_rows_ahead; }

  Result<std::unique_ptr<RepairRun>> begin(const RepairRequest& request) const override {
    if (request.num_layers < parts_.min_layers) {
      return invalid_argument("repair policy " + parts_.name + ": num_layers: a model of " +
                              std::to_string(request.num_layers) + " layers, at least " +
                              std::to_string(parts_.min_layers) + " are needed");
    }
    if (request.plan.stats().approximate_tokens == 0) return one_pass_run({});
    return parts_.begin(request);
  }

 private:
  PolicyParts parts_;
};

}  // namespace

std::unique_ptr<RepairPolicy> make_policy(PolicyParts parts) {
  return std::make_unique<PolicyOfParts>(std::move(parts));
}

Status check_fraction(std::string_view policy, std::string_view field, double value) {
  if (value >= 0 && value <= 1) return {};
  // A number out of all range has too many digits to print without an exponent.
  return invalid_argument(std::string(policy) + ": " + std::string(field) + ": " + std::to_string(value) +
                          " is not within [0, 1]");
}

Status check_at_least(std::string_view policy, std::string_view field, std::int64_t value, std::int64_t least) {
  if (value >= least) return {};
  return invalid_argument(std::string(policy) + ": " + std::string(field) + ": " + std::to_string(value) +
                          " is less than " + std::to_string(least));
}

Status check_layer(std::string_view policy, std::string_view field, std::int32_t value, std::int64_t least) {
  PIKV_TRY(check_at_least(policy, field, value, least));
  if (value < std::numeric_limits<std::int32_t>::max()) return {};
  return invalid_argument(std::string(policy) + ": " + std::string(field) + ": no model has a layer " +
                          std::to_string(value));
}

Status check_signal(std::string_view policy, DeviationOf signal) {
  if (!spec_text(signal).empty()) return {};
  return invalid_argument(std::string(policy) + ": signal: there is none of number " +
                          std::to_string(static_cast<int>(signal)));
}

RepairProbe deviation_probe(std::int32_t layer, DeviationOf signal) {
  return {.layer = layer,
          .signal = RepairSignal::kDeviation,
          .key_weight = signal == DeviationOf::kValues ? 0.0F : 1.0F,
          .value_weight = signal == DeviationOf::kKeys ? 0.0F : 1.0F};
}

}  // namespace pikv::detail
