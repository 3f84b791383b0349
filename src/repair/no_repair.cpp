#include "repair/policies.hpp"
#include "repair/policy.hpp"

namespace pikv {
inline namespace v0 {

std::unique_ptr<RepairPolicy> make_no_repair() {
  return detail::make_policy({.name = "none", .knows_rows_ahead = true, .begin = [](const RepairRequest&) {
                                return detail::one_pass_run({});
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult no_repair_from(PolicySpec& spec) {
  PIKV_TRY(spec.finish());
  return make_no_repair();
}

}  // namespace detail
}  // namespace pikv
