// Shapes of well-known models, for machines without their weights.
#pragma once

#include <string>

#include "config.hpp"

namespace mini_engine {

/// "llama3.1-8b", "smollm2-135m" or "tiny" (two layers of 64). Without end tokens: random weights would give them at
/// random. Throws Error that lists the names for any other.
[[nodiscard]] ModelConfig named_config(const std::string& name);

}  // namespace mini_engine
