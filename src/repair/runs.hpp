// The kinds of runs that policies are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "pikv/repair.hpp"

namespace pikv::detail {

/// One pass over `rows`, which all go through every layer.
[[nodiscard]] std::unique_ptr<RepairRun> one_pass_run(std::vector<std::int32_t> rows);

/// A place in a pass where only some rows go on.
struct Narrowing {
  RepairProbe probe;
  std::size_t num_rows = 0;  ///< that go on
};

/// One pass over `rows`; at each probe, ascending by layer, the best of those still computed go on. row_weights: [rows
/// of the prompt] factors of the scores; empty: all one.
[[nodiscard]] std::unique_ptr<RepairRun> narrowing_run(std::vector<std::int32_t> rows,
                                                       std::vector<Narrowing> narrowings,
                                                       std::vector<float> row_weights = {});

/// What follows once the question's attention is known. attention: [rows of the prompt].
using RunAfterQuestion = std::function<std::unique_ptr<RepairRun>(std::span<const float> attention)>;

/// A pass without repaired rows, in which attention is measured; then the passes of another run.
[[nodiscard]] std::unique_ptr<RepairRun> question_first_run(const RepairAttention& measured, RunAfterQuestion then);

/// The question's pass, attention measured from first_layer on, then a pass over `fraction` of the approximate rows:
/// those that the question attends to most.
[[nodiscard]] std::unique_ptr<RepairRun> most_attended_run(const RepairRequest& request, std::int32_t first_layer,
                                                           double fraction);

}  // namespace pikv::detail
