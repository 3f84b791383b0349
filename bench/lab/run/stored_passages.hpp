// Whether what an arm reuses is there when its prompt is planned.
#pragma once

#include <span>
#include <string>

#include "mini_engine/pikv_bridge.hpp"
#include "pikv/chunk_key.hpp"

namespace lab {

/// A passage that was evicted while others of its case were encoded would be computed, and what its arm loses be
/// underestimated without a word. Throws Error instead, naming the case and the store's size.
void require_stored(mini_engine::ChunkServer& server, std::span<const pikv::ChunkKey> passages,
                    const std::string& case_id);

}  // namespace lab
