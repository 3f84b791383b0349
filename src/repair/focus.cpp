#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "detail/ranks_before.hpp"
#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// One pass over `rows`, of which only `focused` go on beyond `stop_layer`.
class FocusedPassRun final : public RepairRun {
 public:
  FocusedPassRun(std::vector<std::int32_t> rows, std::vector<std::int32_t> focused, std::int32_t stop_layer)
      : focused_(std::move(focused)) {
    pass_.emplace(
        RepairPass{.rows = std::move(rows), .probes = {{.layer = stop_layer, .signal = RepairSignal::kNone}}});
  }

  std::optional<RepairPass> next() override { return std::exchange(pass_, std::nullopt); }

  std::optional<std::vector<std::int32_t>> on_scores(const RepairProbe& /*probe*/,
                                                     std::span<const float> /*scores*/) override {
    return focused_;
  }

 private:
  std::optional<RepairPass> pass_;
  std::vector<std::int32_t> focused_;
};

/// Which of the pieces, best mean attention first, it takes to hold `share` of the attention to all of them. A piece
/// with a row whose attention is NaN comes last.
std::vector<bool> focused_pieces(const std::vector<detail::ApproximatePiece>& pieces, std::span<const float> attention,
                                 double share) {
  std::vector<double> masses(pieces.size());
  std::vector<float> means(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    for (const std::int32_t row : pieces[i].rows) masses[i] += double{attention[static_cast<std::size_t>(row)]};
    means[i] = static_cast<float>(masses[i] / static_cast<double>(pieces[i].rows.size()));
    if (std::isnan(masses[i])) masses[i] = 0;
  }
  std::vector<std::int32_t> order(pieces.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), detail::RanksBefore(means));
  const double total = std::accumulate(masses.begin(), masses.end(), 0.0);
  std::vector<bool> focused(pieces.size());
  double held = 0;
  for (const std::int32_t index : order) {
    if (held >= share * total) break;
    held += masses[static_cast<std::size_t>(index)];
    focused[static_cast<std::size_t>(index)] = true;
  }
  return focused;
}

std::unique_ptr<RepairRun> focused_run(const FocusOptions& options, const RepairRequest& request,
                                       std::span<const float> attention) {
  const std::vector<detail::ApproximatePiece> pieces = detail::approximate_pieces(request.plan);
  const std::vector<bool> is_focused = focused_pieces(pieces, attention, options.mass);
  std::vector<std::int32_t> rows;
  std::vector<std::int32_t> focused;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const std::vector<std::int32_t> best =
        detail::top_rows(attention, pieces[i].rows, detail::rows_of_fraction(options.fraction, pieces[i].rows.size()));
    rows.insert(rows.end(), best.begin(), best.end());
    if (is_focused[i]) focused.insert(focused.end(), best.begin(), best.end());
  }
  const auto num_layers_for_all =
      static_cast<std::int32_t>(detail::part_of(options.stop, static_cast<std::size_t>(request.num_layers)));
  if (num_layers_for_all == 0) return detail::one_pass_run(std::move(focused));
  if (num_layers_for_all == request.num_layers) return detail::one_pass_run(std::move(rows));
  return std::make_unique<FocusedPassRun>(std::move(rows), std::move(focused), num_layers_for_all - 1);
}

}  // namespace

Result<std::unique_ptr<RepairPolicy>> make_focus_repair(const FocusOptions& options) {
  PIKV_TRY(detail::check_fraction("focus", "fraction", options.fraction));
  PIKV_TRY(detail::check_fraction("focus", "stop", options.stop));
  PIKV_TRY(detail::check_fraction("focus", "mass", options.mass));
  const FocusOptions defaults;
  std::string name = "focus:" + detail::spec_text(options.fraction);
  if (options.stop != defaults.stop) name += ",stop=" + detail::spec_text(options.stop);
  if (options.mass != defaults.mass) name += ",mass=" + detail::spec_text(options.mass);
  return detail::make_policy({.name = name, .begin = [options](const RepairRequest& request) {
                                if (options.fraction == 0) return detail::one_pass_run({});
                                return detail::question_first_run({.end_layer = request.num_layers},
                                                                  [options, request](std::span<const float> attention) {
                                                                    return focused_run(options, request, attention);
                                                                  });
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult focus_from(PolicySpec& spec) {
  FocusOptions options;
  PIKV_TRY(spec.value("fraction", options.fraction));
  PIKV_TRY(spec.option("stop", options.stop));
  PIKV_TRY(spec.option("mass", options.mass));
  PIKV_TRY(spec.finish());
  return make_focus_repair(options);
}

}  // namespace detail
}  // namespace pikv
