#include "lab/run/stored_passages.hpp"

#include <algorithm>

#include "mini_engine/error.hpp"

namespace lab {

void require_stored(mini_engine::ChunkServer& server, std::span<const pikv::ChunkKey> passages,
                    const std::string& case_id) {
  pikv::Store& store = server.store();
  if (std::ranges::all_of(passages, [&](const pikv::ChunkKey& key) { return store.contains(key); })) return;
  throw mini_engine::Error("case '" + case_id + "': a store of " + std::to_string(store.stats().capacity_bytes) +
                           " bytes has no room for all passages and what they are encoded behind; raise --store-mib");
}

}  // namespace lab
