// What a pass must be before anybody computes it.
#pragma once

#include <span>

#include "config.hpp"
#include "model.hpp"

namespace mini_engine {

/// Throws Error naming the field, as Model::forward() says. num_positions: of the rotary table.
void check_passes(std::span<const SequencePass> passes, const ModelConfig& config, int num_positions);
/// The same for Model::next_tokens().
void check_samplers(std::span<const SequencePass> passes, std::span<Sampler* const> samplers);

}  // namespace mini_engine
