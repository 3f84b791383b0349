// A policy as its name and what it begins for a plan that has something to repair, and the checks that policies share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pikv/repair_policies.hpp"
#include "repair/runs.hpp"

namespace pikv::detail {

struct PolicyParts {
  std::string name;
  std::int32_t min_layers = 1;    ///< of a model
  bool knows_rows_ahead = false;  ///< begins one_pass_run()s alone
  /// Only called for models with enough layers and plans with approximate rows. Called from several threads.
  std::function<Result<std::unique_ptr<RepairRun>>(const RepairRequest& request)> begin;
};
[[nodiscard]] std::unique_ptr<RepairPolicy> make_policy(PolicyParts parts);

/// Errors: kInvalidArgument naming the policy and the field.
[[nodiscard]] Status check_fraction(std::string_view policy, std::string_view field, double value);
[[nodiscard]] Status check_at_least(std::string_view policy, std::string_view field, std::int64_t value,
                                    std::int64_t least);
/// A layer within [least, the largest int32), so that there can be a layer behind it.
[[nodiscard]] Status check_layer(std::string_view policy, std::string_view field, std::int32_t value,
                                 std::int64_t least);
[[nodiscard]] Status check_signal(std::string_view policy, DeviationOf signal);

/// Of a deviation at `layer`.
[[nodiscard]] RepairProbe deviation_probe(std::int32_t layer, DeviationOf signal);

}  // namespace pikv::detail
