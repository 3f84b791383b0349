// The index's look-ups and fetches; the rest is in store_index.cpp.
#include "fetch_state.hpp"
#include "store_index.hpp"

namespace pikv::detail {

// Looking up.

StoreIndex::Found StoreIndex::find(const ChunkKey& key, std::span<const TokenId> tokens,
                                   const std::shared_ptr<FetchState>& new_fetch) {
  Found found;  // outlives the lock: what it may hold last must not be freed under it
  MutexLock lock(mutex_);
  const auto place = new_fetch == nullptr ? slots_.find(key) : slots_.try_emplace(key).first;
  const std::int64_t num_tokens = static_cast<std::int64_t>(tokens.size());
  if (place != slots_.end()) {
    Slot& slot = place->second;
    if (slot.chunk != nullptr) {
      // Comparing under the lock costs less than taking it twice: a chunk has a few KiB of tokens.
      if (same_tokens(slot.chunk->chunk().tokens(), tokens)) {
        eviction_->on_access(key);
        ++stats_.lookups;
        stats_.lookup_tokens += num_tokens;
        count_hits(1, slot.chunk->chunk());
        found.kind = Found::Kind::kHit;
        found.chunk = slot.chunk;
        return found;
      }
      found.chunk = take_chunk(key, slot);
      forget_if_empty(place);
      ++stats_.verify_failures;
      found.kind = Found::Kind::kTokensDiffer;
    } else if (new_fetch == nullptr) {
      return found;
    } else if (found.fetch = slot.fetch.lock(); found.fetch != nullptr) {
      found.kind = same_tokens(found.fetch->tokens(), tokens) ? Found::Kind::kJoined : Found::Kind::kTokensDiffer;
      if (found.kind == Found::Kind::kJoined) {
        ++stats_.lookups;
        stats_.lookup_tokens += num_tokens;
        ++stats_.shared_fetches;
        ++slot.num_fetch_lookups;
        return found;
      }
    }
    if (found.kind == Found::Kind::kTokensDiffer) {
      ++stats_.lookups;
      stats_.lookup_tokens += num_tokens;
      ++stats_.misses;
      return found;
    }
  }
  if (new_fetch == nullptr) return found;

  found.id = register_fetch(place->second, new_fetch, 1);
  ++stats_.lookups;
  stats_.lookup_tokens += num_tokens;
  return found;
}

StoreIndex::Found StoreIndex::begin_prefetch(const ChunkKey& key, std::span<const TokenId> tokens,
                                             const std::shared_ptr<FetchState>& new_fetch) {
  Found found;  // outlives the lock, as in find()
  MutexLock lock(mutex_);
  const auto place = new_fetch == nullptr ? slots_.find(key) : slots_.try_emplace(key).first;
  if (place == slots_.end()) return found;
  Slot& slot = place->second;
  if (slot.chunk != nullptr) {
    if (same_tokens(slot.chunk->chunk().tokens(), tokens)) {
      eviction_->on_access(key);
      found.kind = Found::Kind::kHit;
      found.chunk = slot.chunk;
    } else {
      found.kind = Found::Kind::kTokensDiffer;
    }
    return found;
  }
  if (found.fetch = slot.fetch.lock(); found.fetch != nullptr) {
    found.kind = same_tokens(found.fetch->tokens(), tokens) ? Found::Kind::kJoined : Found::Kind::kTokensDiffer;
    return found;
  }
  if (new_fetch != nullptr) found.id = register_fetch(slot, new_fetch, 0);
  return found;
}

void StoreIndex::count_miss(std::int64_t num_tokens) {
  MutexLock lock(mutex_);
  ++stats_.lookups;
  stats_.lookup_tokens += num_tokens;
  ++stats_.misses;
}

void StoreIndex::count_resident_hit(const Chunk& chunk) {
  MutexLock lock(mutex_);
  ++stats_.lookups;
  stats_.lookup_tokens += chunk.num_tokens();
  ++stats_.resident_hits;
  count_hits(1, chunk);
}

StoredChunkPtr StoreIndex::peek(const ChunkKey& key) const {
  MutexLock lock(mutex_);
  const auto slot = slots_.find(key);
  return slot != slots_.end() ? slot->second.chunk : nullptr;
}

bool StoreIndex::contains(const ChunkKey& key) const {
  MutexLock lock(mutex_);
  const auto slot = slots_.find(key);
  return slot != slots_.end() && slot->second.chunk != nullptr;
}

// Fetching.

StoredChunkPtr StoreIndex::publish_fetch(const ChunkKey& key, WorkId id, const StoredChunkPtr& chunk) {
  MutexLock lock(mutex_);
  const auto place = find_fetch(key, id);
  if (place == slots_.end()) return nullptr;
  Slot& slot = place->second;
  if (slot.chunk == nullptr) {
    make_findable(key, slot, chunk);
    stats_.fetched_bytes += chunk->chunk().footprint_bytes();
  } else if (!same_tokens(slot.chunk->chunk().tokens(), chunk->chunk().tokens())) {
    end_fetch_as_miss(slot);
    return nullptr;
  }
  count_hits(slot.num_fetch_lookups, slot.chunk->chunk());
  reset_fetch(slot);
  return slot.chunk;
}

void StoreIndex::end_fetch(const ChunkKey& key, WorkId id) {
  MutexLock lock(mutex_);
  if (const auto slot = find_fetch(key, id); slot != slots_.end()) {
    end_fetch_as_miss(slot->second);
    forget_if_empty(slot);
  }
}

void StoreIndex::count_verify_failure() {
  MutexLock lock(mutex_);
  ++stats_.verify_failures;
}

void StoreIndex::count_tier_failure() {
  MutexLock lock(mutex_);
  ++stats_.tier_failures;
}

// Helpers, all called under the lock.

WorkId StoreIndex::register_fetch(Slot& slot, const std::shared_ptr<FetchState>& fetch, std::int64_t num_lookups) {
  end_fetch_as_miss(slot);  // one that everybody left, and whose last holder has not come here yet
  slot.fetch_id = next_id_++;
  slot.fetch = fetch;
  slot.num_fetch_lookups = num_lookups;
  ++stats_.fetches;
  return slot.fetch_id;
}

void StoreIndex::count_hits(std::int64_t num_lookups, const Chunk& chunk) {
  const std::int64_t num_tokens = num_lookups * chunk.num_tokens();
  stats_.hits += num_lookups;
  stats_.hit_tokens += num_tokens;
  if (chunk.recipe().kind() == ChunkRecipe::Kind::kExactContext) stats_.exact_hit_tokens += num_tokens;
}

void StoreIndex::end_fetch_as_miss(Slot& slot) {
  stats_.misses += slot.num_fetch_lookups;
  reset_fetch(slot);
}

void StoreIndex::reset_fetch(Slot& slot) {
  slot.fetch_id = 0;
  slot.fetch.reset();
  slot.num_fetch_lookups = 0;
}

}  // namespace pikv::detail
