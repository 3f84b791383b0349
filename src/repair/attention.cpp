#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_attention_repair(const AttentionRepairOptions& options) {
  PIKV_TRY(detail::check_fraction("attention", "fraction", options.fraction));
  return detail::make_policy(
      {.name = "attention:" + detail::spec_text(options.fraction), .begin = [options](const RepairRequest& request) {
         return detail::most_attended_run(request, request.num_layers - 1, options.fraction);
       }});
}

}  // namespace v0

namespace detail {

PolicyResult attention_from(PolicySpec& spec) {
  AttentionRepairOptions options;
  PIKV_TRY(spec.value("fraction", options.fraction));
  PIKV_TRY(spec.finish());
  return make_attention_repair(options);
}

}  // namespace detail
}  // namespace pikv
