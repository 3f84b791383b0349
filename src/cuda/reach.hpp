// How far the CUDA kernels' 32-bit offsets reach.
#pragma once

#include "pikv/backend.hpp"
#include "pikv/drift.hpp"
#include "pikv/row_scores.hpp"

namespace pikv::detail {

/// kUnsupported, naming the field, where a view has 2^31 slots or more, strides within a layer or rows of heads reach
/// 4 GiB, or a slot map ends beyond 2^31. Requires: validated.
[[nodiscard]] Status check_reach(const KvTransfer& transfer);
[[nodiscard]] Status check_reach(const SlabEncode& encode);
[[nodiscard]] Status check_reach(const DeviationScoring& scoring);
/// Likewise for query heads of all rows beyond 2^31, and more KV heads than a grid has.
[[nodiscard]] Status check_reach(const AttentionScoring& scoring);
/// Likewise for more KV heads than a grid has.
[[nodiscard]] Status check_reach(const DriftWeighing& weighing);
[[nodiscard]] Status check_reach(const DriftCorrection& correction);

}  // namespace pikv::detail
