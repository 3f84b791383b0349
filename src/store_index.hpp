// The store's bookkeeping: which key is where, what is under way for it, who may be evicted, and the counters.
//
// Every member takes the index's lock, decides, and returns; what must be done without the lock (freeing memory,
// storage) is handed back to the caller. Inserts and fetches register under an id. An erase takes the registration
// away, and with it the right to publish: that is the fence which keeps an erased chunk from coming back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "detail/thread_annotations.hpp"
#include "memory_account.hpp"
#include "pikv/store.hpp"

namespace pikv::detail {

class FetchState;

[[nodiscard]] inline bool same_tokens(std::span<const TokenId> a, std::span<const TokenId> b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

/// Of an insert or a fetch under way; unique within a store. 0 is none.
using WorkId = std::uint64_t;

class StoreIndex {
 public:
  StoreIndex(std::int64_t capacity_bytes, std::shared_ptr<MemoryAccount> account,
             std::unique_ptr<EvictionPolicy> eviction)
      : capacity_bytes_(capacity_bytes), account_(std::move(account)), eviction_(std::move(eviction)) {}

  // Room.

  enum class Room : std::uint8_t { kCharged, kEvicted, kNone };
  /// kCharged: `bytes` are charged. kEvicted: free `victims`, call finish_eviction() with `victims_bytes`, and ask
  /// again. kNone: not to be had while what is pinned stays pinned; nothing was evicted. Waits for evictions under way.
  [[nodiscard]] Room charge(std::int64_t bytes, std::vector<StoredChunkPtr>& victims, std::int64_t& victims_bytes);
  void finish_eviction(std::int64_t victims_bytes);

  // Looking up.

  struct Found {
    enum class Kind : std::uint8_t { kHit, kJoined, kAbsent, kTokensDiffer };
    Kind kind = Kind::kAbsent;
    StoredChunkPtr chunk;               // kHit; for kTokensDiffer the entry that was dropped, for the caller to free
    std::shared_ptr<FetchState> fetch;  // kJoined; for kTokensDiffer what the caller has to let go of
    WorkId id = 0;                      // kAbsent: of the new fetch, when there is one
  };
  /// Without `new_fetch`: looks at memory alone. kAbsent is not counted, since the caller asks again with a fetch or
  /// calls count_miss() or count_resident_hit(). With it: joins the fetch that is under way, or registers the new one
  /// and answers kAbsent, meaning that the caller has to start it.
  [[nodiscard]] Found find(const ChunkKey& key, std::span<const TokenId> tokens,
                           const std::shared_ptr<FetchState>& new_fetch);
  /// The same on nobody's behalf: counts no look-up, drops nothing. Without `new_fetch` it registers none, and the id
  /// of kAbsent is 0.
  [[nodiscard]] Found begin_prefetch(const ChunkKey& key, std::span<const TokenId> tokens,
                                     const std::shared_ptr<FetchState>& new_fetch);
  void count_miss(std::int64_t num_tokens);
  void count_resident_hit(const Chunk& chunk);
  /// Findable in memory under this key; null when there is none.
  [[nodiscard]] StoredChunkPtr peek(const ChunkKey& key) const;
  [[nodiscard]] bool contains(const ChunkKey& key) const;

  // Inserting.

  struct InsertStart {
    InsertOutcome outcome = InsertOutcome::kInProgress;
    WorkId id = 0;            // kInserted: registered, to be ended by publish_insert() or abandon_insert()
    StoredChunkPtr existing;  // kAlreadyPresent
    StoredChunkPtr dropped;   // an entry under this key with other content, for the caller to free
  };
  [[nodiscard]] InsertStart begin_insert(const ChunkKey& key, const ChunkRecipe& recipe,
                                         std::span<const TokenId> tokens);
  struct Published {
    StoredChunkPtr chunk;        // what the caller hands out: the chunk given, or the one that was there first
    bool write_to_tier = false;  // the caller writes it to a tier and then calls finish_put()
  };
  /// Makes the chunk findable unless it was fenced off. May throw std::bad_alloc, and is then as if not called.
  [[nodiscard]] Published publish_insert(const ChunkKey& key, WorkId id, const StoredChunkPtr& chunk, bool has_tiers);
  void abandon_insert(const ChunkKey& key, WorkId id, bool declined);
  void finish_put(const ChunkKey& key);

  // Fetching.

  /// Makes a fetched chunk findable and returns it, or the equal one that was inserted meanwhile; null when fenced off.
  /// May throw std::bad_alloc, and is then as if not called.
  [[nodiscard]] StoredChunkPtr publish_fetch(const ChunkKey& key, WorkId id, const StoredChunkPtr& chunk);
  /// Ends a fetch without a chunk. Nothing happens when it has been ended before.
  void end_fetch(const ChunkKey& key, WorkId id);
  void count_verify_failure();
  void count_tier_failure();

  // Erasing. What is returned is for the caller to free.

  /// Fences everything under way for the key, keeps tiers from being written, and waits for writes under way.
  [[nodiscard]] StoredChunkPtr begin_erase(const ChunkKey& key);
  /// Fences what has begun since.
  [[nodiscard]] StoredChunkPtr finish_erase(const ChunkKey& key);
  /// Empties the index; nothing is published any more.
  void close() noexcept;

  [[nodiscard]] StoreStats stats() const;

 private:
  /// All there is to a key. Exists while any member says something.
  struct Slot {
    StoredChunkPtr chunk;  // findable
    WorkId insert_id = 0;
    WorkId fetch_id = 0;
    std::weak_ptr<FetchState> fetch;     // expired: everybody who waited for it has gone
    std::int64_t num_fetch_lookups = 0;  // look-ups whose answer is this fetch
    std::int32_t num_puts = 0;           // writes to a tier under way
    std::int32_t num_erases = 0;         // erases under way
  };
  using Slots = std::unordered_map<ChunkKey, Slot, ChunkKeyHash>;

  void forget_if_empty(Slots::iterator slot) PIKV_REQUIRES(mutex_);
  [[nodiscard]] Slots::iterator find_insert(const ChunkKey& key, WorkId id) PIKV_REQUIRES(mutex_);
  [[nodiscard]] Slots::iterator find_fetch(const ChunkKey& key, WorkId id) PIKV_REQUIRES(mutex_);
  void make_findable(const ChunkKey& key, Slot& slot, const StoredChunkPtr& chunk) PIKV_REQUIRES(mutex_);
  [[nodiscard]] StoredChunkPtr take_chunk(const ChunkKey& key, Slot& slot) PIKV_REQUIRES(mutex_);
  [[nodiscard]] StoredChunkPtr fence(const ChunkKey& key, Slot& slot) PIKV_REQUIRES(mutex_);
  [[nodiscard]] WorkId register_fetch(Slot& slot, const std::shared_ptr<FetchState>& fetch, std::int64_t num_lookups)
      PIKV_REQUIRES(mutex_);
  void count_hits(std::int64_t num_lookups, const Chunk& chunk) PIKV_REQUIRES(mutex_);
  void end_fetch_as_miss(Slot& slot) PIKV_REQUIRES(mutex_);
  void reset_fetch(Slot& slot) PIKV_REQUIRES(mutex_);

  const std::int64_t capacity_bytes_;
  const std::shared_ptr<MemoryAccount> account_;

  mutable Mutex mutex_;
  CondVar changed_;  // leaving_bytes_ or some num_puts went down
  const std::unique_ptr<EvictionPolicy> eviction_ PIKV_GUARDED_BY(mutex_);
  Slots slots_ PIKV_GUARDED_BY(mutex_);
  WorkId next_id_ PIKV_GUARDED_BY(mutex_) = 1;
  std::int64_t leaving_bytes_ PIKV_GUARDED_BY(mutex_) = 0;  // evicted, and being freed right now
  bool closed_ PIKV_GUARDED_BY(mutex_) = false;
  StoreStats stats_ PIKV_GUARDED_BY(mutex_);  // its byte counts of memory are made up by stats()
};

}  // namespace pikv::detail
