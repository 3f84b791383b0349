// Rows of a view as the kernels that compute on them are told.
#pragma once

#include <cstdint>

#include "kernels/score_params.hpp"
#include "pikv/geometry.hpp"
#include "pikv/rope.hpp"

namespace pikv::detail {

/// What one instruction reads of a row that is aligned to it.
inline constexpr std::int64_t kVectorBytes = 16;

/// Requires: checked, check_reach() included.
[[nodiscard]] kernels::ScoredRows scored_rows(const ConstKvView& view, const SlotMap& slots,
                                              std::int32_t layer) noexcept;
/// Whether rows of this plane can be read by 16 bytes.
[[nodiscard]] bool has_vectors(const kernels::Plane& plane, const kernels::ScoredRows& rows) noexcept;
/// Whether rows can, keys and values, and be turned by vectors.
[[nodiscard]] bool has_vectors(const kernels::ScoredRows& rows, const RopeTableView& rope,
                               std::int32_t head_dim) noexcept;

}  // namespace pikv::detail
