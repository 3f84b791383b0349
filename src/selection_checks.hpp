// What can be checked of a selection without looking into its arrays.
#pragma once

#include <cstdint>
#include <span>

#include "pikv/selection.hpp"
#include "pikv/status.hpp"

namespace pikv::detail {

struct SelectionLimits {
  std::int32_t max_rows = 0;
  std::int32_t max_segments = 0;
};

[[nodiscard]] Status check_top_rows(std::span<const float> scores, std::span<const std::int32_t> rows,
                                    const SelectionLimits& limits);
[[nodiscard]] Status check_segments(const SegmentSelection& selection, const SelectionLimits& limits);
[[nodiscard]] Status check_rows_above(std::span<const float> scores, float threshold,
                                      std::span<const std::int32_t> rows, const std::int32_t* count,
                                      const SelectionLimits& limits);
[[nodiscard]] Status check_order(std::span<const float> scores, std::span<const std::int32_t> chunks,
                                 const SelectionLimits& limits);
[[nodiscard]] Status check_gather(const SlotGather& gather);

}  // namespace pikv::detail
