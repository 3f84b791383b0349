#pragma once

#include <cstdint>

namespace mini_engine {

/// Whose attention a GPU runs: the engine's own, or cuDNN's where it computes the same.
enum class AttentionKind : std::uint8_t { kOwn, kCudnn };

}  // namespace mini_engine
