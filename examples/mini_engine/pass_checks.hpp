// What a pass must be before anybody computes it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "config.hpp"
#include "model.hpp"

namespace mini_engine {

/// Throws Error naming the field, as Model::forward() says. num_positions: of the rotary table.
void check_passes(std::span<const SequencePass> passes, const ModelConfig& config, int num_positions);
/// The same for Model::next_tokens().
void check_samplers(std::span<const SequencePass> passes, std::span<Sampler* const> samplers);
/// Throws Error naming the field unless its values are in [0, end) and strictly ascending.
void check_ascending(std::string_view field, std::span<const std::int32_t> values, std::int64_t end);

}  // namespace mini_engine
