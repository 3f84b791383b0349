// From scorings to what the kernels are told.
#pragma once

#include <cstddef>

#include "kernels/score_params.hpp"
#include "pikv/row_scores.hpp"

namespace pikv::detail {

/// Requires of all: checked, check_reach() included.
[[nodiscard]] kernels::DeviationParams deviation_params(const DeviationScoring& scoring) noexcept;
/// Without workspace. Requires also: rows, and something that is wanted.
[[nodiscard]] kernels::AttentionParams attention_params(const AttentionScoring& scoring) noexcept;

/// Bytes of workspace that a launch needs.
[[nodiscard]] std::size_t workspace_bytes(const kernels::AttentionParams& params) noexcept;
/// memory: [workspace_bytes()], on a multiple of 256.
void place_workspace(kernels::AttentionParams& params, std::byte* memory) noexcept;

}  // namespace pikv::detail
