#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_blend_repair(const BlendOptions& options) {
  PIKV_TRY(detail::check_blend("blend", options));
  return detail::make_policy({.name = detail::blend_name("blend", options),
                              .min_layers = options.layer + 1,
                              .begin = [options](const RepairRequest& request) {
                                std::vector<std::int32_t> rows = detail::approximate_rows(request.plan);
                                const std::size_t num_kept = detail::rows_of_fraction(options.fraction, rows.size());
                                if (num_kept == 0) return detail::one_pass_run({});
                                return detail::narrowing_run(
                                    std::move(rows),
                                    {{detail::deviation_probe(options.layer, options.signal), num_kept}});
                              }});
}

}  // namespace v0

namespace detail {

Status check_blend(std::string_view policy, const BlendOptions& options) {
  PIKV_TRY(check_fraction(policy, "fraction", options.fraction));
  PIKV_TRY(check_layer(policy, "layer", options.layer, 1));
  return check_signal(policy, options.signal);
}

std::string blend_name(std::string_view policy, const BlendOptions& options) {
  std::string name = std::string(policy) + ":" + spec_text(options.fraction);
  if (options.layer != BlendOptions().layer) name += ",layer=" + std::to_string(options.layer);
  if (options.signal != BlendOptions().signal) name += ",signal=" + spec_text(options.signal);
  return name;
}

Status read_blend(PolicySpec& spec, BlendOptions& options) {
  PIKV_TRY(spec.value("fraction", options.fraction));
  PIKV_TRY(spec.option("layer", options.layer));
  PIKV_TRY(spec.option("signal", options.signal));
  return spec.finish();
}

PolicyResult blend_from(PolicySpec& spec) {
  BlendOptions options;
  PIKV_TRY(read_blend(spec, options));
  return make_blend_repair(options);
}

}  // namespace detail
}  // namespace pikv
