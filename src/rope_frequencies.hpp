// Frequencies of the RoPE variants, shared by inverse_frequencies() and RopeTable::build().
#pragma once

#include <cstdint>
#include <vector>

#include "pikv/rope.hpp"

namespace pikv::detail {

/// [rotary_dim/2]. Requires: validate(config, rotary_dim) is OK and sequence_length >= 0.
[[nodiscard]] std::vector<double> compute_inverse_frequencies(const RopeConfig& config, std::int32_t rotary_dim,
                                                              std::int64_t sequence_length);

/// What cos and sin are multiplied by; 1 for variants without an attention factor. Requires: as above.
[[nodiscard]] double attention_factor(const RopeConfig& config) noexcept;

}  // namespace pikv::detail
