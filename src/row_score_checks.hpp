// What can be checked of a scoring: before anything is written, and without looking into device memory.
#pragma once

#include "pikv/backend.hpp"
#include "pikv/row_scores.hpp"
#include "pikv/status.hpp"

namespace pikv::detail {

/// Without looking into arrays. caps: name and space of whoever scores.
[[nodiscard]] Status check_deviation(const DeviationScoring& scoring, const BackendCaps& caps);
[[nodiscard]] Status check_attention(const AttentionScoring& scoring, const BackendCaps& caps);

/// Of arrays in host memory. Requires: the scoring has passed the check above.
[[nodiscard]] Status check_deviation_arrays(const DeviationScoring& scoring);
[[nodiscard]] Status check_attention_arrays(const AttentionScoring& scoring);

}  // namespace pikv::detail
