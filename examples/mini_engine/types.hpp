// The engine's plain vocabulary. Letters used in shapes throughout the engine:
// L layers, R rows of a batch, N tokens of a sequence, H KV heads, Q query heads, D head size, E hidden size,
// F feed-forward size, V vocabulary, P pages, S page size.
#pragma once

#include <cstdint>

namespace mini_engine {

using TokenId = std::uint32_t;
using Position = std::int32_t;
using Slot = std::int64_t;  ///< page_index * page_size + index within the page

/// Precision in which the engine keeps weights or its KV cache.
enum class Precision : std::uint8_t { kFloat32, kBFloat16 };

}  // namespace mini_engine
