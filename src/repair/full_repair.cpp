#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

std::unique_ptr<RepairPolicy> make_full_repair() {
  return detail::make_policy({.name = "all", .knows_rows_ahead = true, .begin = [](const RepairRequest& request) {
                                return detail::one_pass_run(detail::approximate_rows(request.plan));
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult full_repair_from(PolicySpec& spec) {
  PIKV_TRY(spec.finish());
  return make_full_repair();
}

}  // namespace detail
}  // namespace pikv
