// What make_repair_policy() knows of each policy: how to read its part of a spec.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "pikv/repair_policies.hpp"
#include "repair/policy_spec.hpp"

namespace pikv::detail {

using PolicyResult = Result<std::unique_ptr<RepairPolicy>>;

/// What policies with BlendOptions have in common.
[[nodiscard]] Status check_blend(std::string_view policy, const BlendOptions& options);
[[nodiscard]] std::string blend_name(std::string_view policy, const BlendOptions& options);
[[nodiscard]] Status read_blend(PolicySpec& spec, BlendOptions& options);

[[nodiscard]] PolicyResult no_repair_from(PolicySpec& spec);
[[nodiscard]] PolicyResult full_repair_from(PolicySpec& spec);
[[nodiscard]] PolicyResult first_rows_from(PolicySpec& spec);
[[nodiscard]] PolicyResult end_rows_from(PolicySpec& spec);
[[nodiscard]] PolicyResult blend_from(PolicySpec& spec);
[[nodiscard]] PolicyResult gradual_blend_from(PolicySpec& spec);
[[nodiscard]] PolicyResult attention_from(PolicySpec& spec);
[[nodiscard]] PolicyResult prophet_from(PolicySpec& spec);
[[nodiscard]] PolicyResult attended_deviation_from(PolicySpec& spec);
[[nodiscard]] PolicyResult focus_from(PolicySpec& spec);
[[nodiscard]] PolicyResult error_budget_from(PolicySpec& spec);
[[nodiscard]] PolicyResult random_rows_from(PolicySpec& spec);

}  // namespace pikv::detail
