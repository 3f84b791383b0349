#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_attended_deviation_repair(const BlendOptions& options) {
  PIKV_TRY(detail::check_blend("attended-deviation", options));
  return detail::make_policy({.name = detail::blend_name("attended-deviation", options),
                              .min_layers = options.layer + 1,
                              .begin = [options](const RepairRequest& request) {
                                std::vector<std::int32_t> rows = detail::approximate_rows(request.plan);
                                const std::size_t num_kept = detail::rows_of_fraction(options.fraction, rows.size());
                                if (num_kept == 0) return detail::one_pass_run({});
                                return detail::question_first_run(
                                    {.end_layer = request.num_layers},
                                    [options, num_kept, rows = std::move(rows)](std::span<const float> attention) {
                                      return detail::narrowing_run(
                                          rows, {{detail::deviation_probe(options.layer, options.signal), num_kept}},
                                          {attention.begin(), attention.end()});
                                    });
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult attended_deviation_from(PolicySpec& spec) {
  BlendOptions options;
  PIKV_TRY(read_blend(spec, options));
  return make_attended_deviation_repair(options);
}

}  // namespace detail
}  // namespace pikv
