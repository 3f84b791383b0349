#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_prophet_repair(const ProphetOptions& options) {
  PIKV_TRY(detail::check_fraction("prophet", "fraction", options.fraction));
  return detail::make_policy(
      {.name = "prophet:" + detail::spec_text(options.fraction), .begin = [options](const RepairRequest& request) {
         return detail::most_attended_run(request, 0, options.fraction);
       }});
}

}  // namespace v0

namespace detail {

PolicyResult prophet_from(PolicySpec& spec) {
  ProphetOptions options;
  PIKV_TRY(spec.value("fraction", options.fraction));
  PIKV_TRY(spec.finish());
  return make_prophet_repair(options);
}

}  // namespace detail
}  // namespace pikv
