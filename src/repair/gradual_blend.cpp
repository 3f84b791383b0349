#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_gradual_blend_repair(const GradualBlendOptions& options) {
  PIKV_TRY(detail::check_fraction("blend-gradual", "fraction", options.fraction));
  PIKV_TRY(detail::check_signal("blend-gradual", options.signal));
  if (options.layers.empty()) return invalid_argument("blend-gradual: layers: there are none");
  std::int64_t least = 1;
  for (const std::int32_t layer : options.layers) {
    PIKV_TRY(detail::check_layer("blend-gradual", "layers", layer, least));
    least = std::int64_t{layer} + 1;
  }
  const GradualBlendOptions defaults;
  std::string name = "blend-gradual:" + detail::spec_text(options.fraction);
  if (options.layers != defaults.layers) name += ",layers=" + detail::spec_text(options.layers);
  if (options.signal != defaults.signal) name += ",signal=" + detail::spec_text(options.signal);
  return detail::make_policy(
      {.name = name, .min_layers = options.layers.back() + 1, .begin = [options](const RepairRequest& request) {
         std::vector<std::int32_t> rows = detail::approximate_rows(request.plan);
         const std::size_t num_checks = options.layers.size();
         std::vector<detail::Narrowing> narrowings;
         for (std::size_t i = 1; i <= num_checks; ++i) {
           // The last check keeps the fraction itself, whatever pow() rounds to.
           const double fraction =
               i == num_checks ? options.fraction
                               : std::pow(options.fraction, static_cast<double>(i) / static_cast<double>(num_checks));
           narrowings.push_back({detail::deviation_probe(options.layers[i - 1], options.signal),
                                 detail::rows_of_fraction(fraction, rows.size())});
         }
         if (narrowings.back().num_rows == 0) return detail::one_pass_run({});
         return detail::narrowing_run(std::move(rows), std::move(narrowings));
       }});
}

}  // namespace v0

namespace detail {

PolicyResult gradual_blend_from(PolicySpec& spec) {
  GradualBlendOptions options;
  PIKV_TRY(spec.value("fraction", options.fraction));
  PIKV_TRY(spec.option("layers", options.layers));
  PIKV_TRY(spec.option("signal", options.signal));
  PIKV_TRY(spec.finish());
  return make_gradual_blend_repair(options);
}

}  // namespace detail
}  // namespace pikv
