#include "store_index.hpp"

#include "fetch_state.hpp"

namespace pikv::detail {

// Room.

StoreIndex::Room StoreIndex::charge(std::int64_t bytes, std::vector<StoredChunkPtr>& victims,
                                    std::int64_t& victims_bytes) {
  class Collector final : public EvictionPolicy::Visitor {
   public:
    Collector(Slots& slots, std::int64_t wanted_bytes) : slots_(slots), wanted_bytes_(wanted_bytes) {}
    [[nodiscard]] bool visit(const ChunkKey& key) override {
      const auto slot = slots_.find(key);
      // One owner means that no handle exists; new ones are made under the index's lock alone.
      if (slot != slots_.end() && slot->second.chunk != nullptr && slot->second.chunk.use_count() == 1) {
        places_.push_back(slot);
        found_bytes_ += slot->second.chunk->chunk().footprint_bytes();
      }
      return found_bytes_ < wanted_bytes_;
    }
    [[nodiscard]] bool enough() const noexcept { return found_bytes_ >= wanted_bytes_; }
    [[nodiscard]] std::int64_t found_bytes() const noexcept { return found_bytes_; }
    [[nodiscard]] std::vector<Slots::iterator>& places() noexcept { return places_; }

   private:
    Slots& slots_;
    std::int64_t wanted_bytes_;
    std::int64_t found_bytes_ = 0;
    std::vector<Slots::iterator> places_;
  };

  MutexLock lock(mutex_);
  if (bytes > capacity_bytes_) return Room::kNone;
  std::int64_t missing_bytes = 0;
  while (true) {
    missing_bytes = bytes - (capacity_bytes_ - account_->used_bytes());
    if (missing_bytes <= 0) {
      account_->charge(bytes);
      return Room::kCharged;
    }
    if (missing_bytes > leaving_bytes_) break;
    changed_.wait(mutex_);
  }

  Collector collector(slots_, missing_bytes - leaving_bytes_);
  eviction_->visit_victims(collector);
  if (!collector.enough()) return Room::kNone;
  victims.reserve(collector.places().size());
  for (const Slots::iterator slot : collector.places()) {
    victims.push_back(take_chunk(slot->first, slot->second));
    forget_if_empty(slot);
  }
  victims_bytes = collector.found_bytes();
  leaving_bytes_ += victims_bytes;
  stats_.evictions += static_cast<std::int64_t>(victims.size());
  stats_.evicted_bytes += victims_bytes;
  return Room::kEvicted;
}

void StoreIndex::finish_eviction(std::int64_t victims_bytes) {
  MutexLock lock(mutex_);
  leaving_bytes_ -= victims_bytes;
  changed_.notify_all();
}

// Inserting.

StoreIndex::InsertStart StoreIndex::begin_insert(const ChunkKey& key, const ChunkRecipe& recipe,
                                                 std::span<const TokenId> tokens) {
  InsertStart start;
  MutexLock lock(mutex_);
  Slot& slot = slots_.try_emplace(key).first->second;
  if (slot.chunk != nullptr) {
    const Chunk& present = slot.chunk->chunk();
    if (present.recipe() == recipe && same_tokens(present.tokens(), tokens)) {
      eviction_->on_access(key);
      ++stats_.duplicate_inserts;
      start.outcome = InsertOutcome::kAlreadyPresent;
      start.existing = slot.chunk;
      return start;
    }
    start.dropped = take_chunk(key, slot);
    ++stats_.verify_failures;
  }
  if (slot.insert_id != 0) {
    ++stats_.duplicate_inserts;
    start.outcome = InsertOutcome::kInProgress;
    return start;
  }
  slot.insert_id = next_id_++;
  start.outcome = InsertOutcome::kInserted;
  start.id = slot.insert_id;
  return start;
}

StoreIndex::Published StoreIndex::publish_insert(const ChunkKey& key, WorkId id, const StoredChunkPtr& chunk,
                                                 bool has_tiers) {
  MutexLock lock(mutex_);
  const auto place = find_insert(key, id);
  if (place == slots_.end()) {
    chunk->set_leftover();
    return {chunk, false};
  }
  Slot& slot = place->second;
  if (slot.chunk != nullptr) {  // fetched meanwhile
    slot.insert_id = 0;
    ++stats_.duplicate_inserts;
    if (same_tokens(slot.chunk->chunk().tokens(), chunk->chunk().tokens())) return {slot.chunk, false};
    chunk->set_leftover();
    return {chunk, false};
  }
  make_findable(key, slot, chunk);
  slot.insert_id = 0;
  ++stats_.inserts;
  stats_.inserted_bytes += chunk->chunk().footprint_bytes();
  const bool write_to_tier = has_tiers && slot.num_erases == 0;
  if (write_to_tier) ++slot.num_puts;
  return {chunk, write_to_tier};
}

void StoreIndex::abandon_insert(const ChunkKey& key, WorkId id, bool declined) {
  MutexLock lock(mutex_);
  if (declined) ++stats_.declined_inserts;
  if (const auto slot = find_insert(key, id); slot != slots_.end()) {
    slot->second.insert_id = 0;
    forget_if_empty(slot);
  }
}

void StoreIndex::finish_put(const ChunkKey& key) {
  MutexLock lock(mutex_);
  const auto slot = slots_.find(key);
  if (slot == slots_.end()) return;  // the store was closed
  --slot->second.num_puts;
  changed_.notify_all();
  forget_if_empty(slot);
}

// Erasing.

StoredChunkPtr StoreIndex::begin_erase(const ChunkKey& key) {
  StoredChunkPtr erased;
  MutexLock lock(mutex_);
  Slot& slot = slots_.try_emplace(key).first->second;  // stays put: slots with an erase under way are not forgotten
  ++slot.num_erases;
  erased = fence(key, slot);
  while (!closed_ && slot.num_puts > 0) changed_.wait(mutex_);
  return erased;
}

StoredChunkPtr StoreIndex::finish_erase(const ChunkKey& key) {
  StoredChunkPtr erased;
  MutexLock lock(mutex_);
  const auto slot = slots_.find(key);
  if (slot == slots_.end()) return erased;  // the store was closed
  erased = fence(key, slot->second);
  --slot->second.num_erases;
  forget_if_empty(slot);
  return erased;
}

void StoreIndex::close() noexcept {
  Slots slots;  // freed after the lock
  MutexLock lock(mutex_);
  closed_ = true;
  for (auto& [key, slot] : slots_) {
    if (slot.chunk == nullptr) continue;
    eviction_->on_remove(key);
    slot.chunk->set_leftover();
  }
  slots.swap(slots_);
}

StoreStats StoreIndex::stats() const {
  MutexLock lock(mutex_);
  StoreStats stats = stats_;
  stats.capacity_bytes = capacity_bytes_;
  stats.used_bytes = account_->used_bytes();
  stats.pinned_bytes = account_->leftover_bytes();
  for (const auto& [key, slot] : slots_) {
    if (slot.chunk != nullptr && slot.chunk.use_count() > 1)
      stats.pinned_bytes += slot.chunk->chunk().footprint_bytes();
  }
  return stats;
}

// Helpers, all called under the lock.

void StoreIndex::forget_if_empty(Slots::iterator slot) {
  const Slot& s = slot->second;
  if (s.chunk == nullptr && s.insert_id == 0 && s.fetch_id == 0 && s.num_puts == 0 && s.num_erases == 0) {
    slots_.erase(slot);
  }
}

StoreIndex::Slots::iterator StoreIndex::find_insert(const ChunkKey& key, WorkId id) {
  const auto slot = slots_.find(key);
  return slot != slots_.end() && slot->second.insert_id == id ? slot : slots_.end();
}

StoreIndex::Slots::iterator StoreIndex::find_fetch(const ChunkKey& key, WorkId id) {
  const auto slot = slots_.find(key);
  return slot != slots_.end() && slot->second.fetch_id == id ? slot : slots_.end();
}

void StoreIndex::make_findable(const ChunkKey& key, Slot& slot, const StoredChunkPtr& chunk) {
  eviction_->on_insert(key, chunk->chunk().footprint_bytes());
  slot.chunk = chunk;
  ++stats_.num_chunks;
}

StoredChunkPtr StoreIndex::take_chunk(const ChunkKey& key, Slot& slot) {
  eviction_->on_remove(key);
  slot.chunk->set_leftover();
  --stats_.num_chunks;
  return std::move(slot.chunk);
}

StoredChunkPtr StoreIndex::fence(const ChunkKey& key, Slot& slot) {
  slot.insert_id = 0;
  end_fetch_as_miss(slot);
  return slot.chunk == nullptr ? nullptr : take_chunk(key, slot);
}

}  // namespace pikv::detail
