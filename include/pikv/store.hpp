// The store: chunks in memory under a byte-accurate capacity, ordered tiers behind it, one index over both.
//
// Two chunks of the same content are one entry. Exact prefixes and position-free chunks live side by side, told apart
// by their recipes. A look-up never returns garbage: tokens are compared exactly, and a tier that fails is a miss with
// a reason.
//
//   auto store = pikv::Store::create({.geometry = geometry, .capacity_bytes = 4LL << 30});
//   auto writer = (*store)->begin_insert(key, pikv::ChunkRecipe::alone(), tokens);   // fill writer->slab(), then
//   pikv::ChunkHandle chunk = *writer->commit();
//   pikv::Lookup found = (*store)->lookup(key, tokens);
//
// Thread-safety: every member of Store may be called from any thread. No callback is made under a lock.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pikv/chunk_key.hpp"
#include "pikv/geometry.hpp"
#include "pikv/memory.hpp"
#include "pikv/slab.hpp"
#include "pikv/status.hpp"
#include "pikv/tier.hpp"

namespace pikv {
namespace detail {
class FetchState;
class StoreCore;
}  // namespace detail
inline namespace v0 {

class Store;

/// Why a look-up or a fetch gave no chunk.
enum class MissReason : std::uint8_t {
  kNone = 0,         ///< it was a hit
  kNotFound,         ///< no tier holds it
  kTokensDiffer,     ///< an entry of this key holds other tokens; it is dropped
  kVerifyFailed,     ///< stored bytes failed their checks; the entry is dropped
  kTierUnavailable,  ///< a tier that may hold it did not answer
  kNoRoom,           ///< a tier holds it, but capacity or memory has no room for it
  kOtherEncoding,    ///< a tier holds it in another encoding than the store's, which does not enter memory; it stays
                     ///< there
};
[[nodiscard]] PIKV_API const char* miss_reason_name(MissReason reason) noexcept;

enum class LookupState : std::uint8_t { kHit, kPending, kMiss };

/// A fetch from slower tiers, shared by everybody who asked for the same key while it was under way. Copyable; one
/// ticket object is not to be shared between threads without care, copies are. May outlive the store.
///
/// The first tier begins at the look-up. The thread that waits first sees the fetch through, over the other tiers if
/// need be. When all tickets are dropped without a wait(), the fetch is abandoned.
class FetchTicket {
 public:
  FetchTicket() = default;
  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr; }
  /// Blocks until the chunk is in memory (pinned by the result, and by the ticket) or the fetch has failed (null; see
  /// `reason`, which may be null). A chunk erased while it was fetched is kNotFound. Asking again gives the same
  /// answer.
  [[nodiscard]] PIKV_API ChunkHandle wait(MissReason* reason = nullptr) const;

 private:
  friend class Store;
  explicit FetchTicket(std::shared_ptr<detail::FetchState> state) noexcept : state_(std::move(state)) {}
  std::shared_ptr<detail::FetchState> state_;
};

/// The answer to a look-up.
struct Lookup {
  LookupState state = LookupState::kMiss;
  ChunkHandle chunk;                          ///< kHit: the pinned chunk
  FetchTicket ticket;                         ///< kPending: wait() for it, or go on without
  MissReason reason = MissReason::kNotFound;  ///< kMiss
};

enum class InsertOutcome : std::uint8_t {
  kInserted,
  kAlreadyPresent,  ///< same content was there; nothing was written
  kInProgress,      ///< somebody else is inserting it right now; nothing was written
  kNoRoom,          ///< larger than what capacity leaves beside pinned chunks; nothing was written
};
[[nodiscard]] PIKV_API const char* insert_outcome_name(InsertOutcome outcome) noexcept;

/// Fills a new chunk's slab, then publishes it at once and whole. Dropping the writer without commit() gives the room
/// back. Move-only; one thread at a time. May outlive the store, and then publishes nothing. A moved-from writer may
/// only be assigned to or destroyed.
class ChunkWriter {
 public:
  PIKV_API ChunkWriter(ChunkWriter&&) noexcept;
  PIKV_API ChunkWriter& operator=(ChunkWriter&&) noexcept;
  PIKV_API ~ChunkWriter();

  /// kInserted: slab(), view() and commit() may be used. Otherwise only outcome() and, for kAlreadyPresent, existing().
  [[nodiscard]] PIKV_API InsertOutcome outcome() const noexcept;
  /// The chunk that was there already; null unless kAlreadyPresent.
  [[nodiscard]] PIKV_API ChunkHandle existing() const noexcept;
  /// The slab in the store's encoding, uninitialised, to be filled by the caller (Backend::encode_async). Requires:
  /// outcome() is kInserted.
  [[nodiscard]] PIKV_API SlabView slab() noexcept;
  /// The same as a view [L][2][T][H][D]. Requires: outcome() is kInserted and the store's format kPlain; with another
  /// format the view has null bases.
  [[nodiscard]] PIKV_API KvView view() noexcept;
  /// Publishes the chunk and returns a pin on it. The slab must be filled: on an asynchronous backend the caller has
  /// synchronised first. Then, on this thread, writes the chunk to the fastest tier that takes it; a tier's failure is
  /// counted and not an error, since memory has the chunk. If the key was erased meanwhile, the pin is all there is: no
  /// look-up will find the chunk. kInvalidArgument unless outcome() is kInserted, or when called twice; kOutOfMemory
  /// leaves the writer as it was.
  [[nodiscard]] PIKV_API Result<ChunkHandle> commit();

 private:
  friend class Store;
  struct Impl;
  explicit ChunkWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Counters since creation, in chunks, tokens and bytes; a consistent snapshot. Every look-up is a hit or a miss once
/// its fetch, if any, is done. Bytes are footprints (Chunk::footprint_bytes()).
struct StoreStats {
  std::int64_t num_chunks = 0;    ///< in memory and findable
  std::int64_t used_bytes = 0;    ///< charged: findable, being written or fetched, and pinned leftovers
  std::int64_t pinned_bytes = 0;  ///< of used_bytes, in chunks held by handles
  std::int64_t capacity_bytes = 0;
  std::int64_t lookups = 0, hits = 0, misses = 0;
  std::int64_t lookup_tokens = 0, hit_tokens = 0;
  std::int64_t resident_hits = 0;     ///< of hits, chunks used where they lie in a tier
  std::int64_t exact_hit_tokens = 0;  ///< of hit_tokens, from chunks encoded in their exact context
  std::int64_t fetches = 0, fetched_bytes = 0, shared_fetches = 0;  ///< shared: look-ups that joined one under way
  std::int64_t inserts = 0, inserted_bytes = 0;
  std::int64_t duplicate_inserts = 0;  ///< already present, or being inserted by somebody else
  std::int64_t declined_inserts = 0;   ///< no room
  std::int64_t evictions = 0, evicted_bytes = 0;
  std::int64_t verify_failures = 0, tier_failures = 0;
};

struct StoreOptions {
  KvGeometry geometry;              ///< of every chunk in this store
  std::int64_t capacity_bytes = 0;  ///< of memory, > 0
  /// Null: host_memory_resource(). Must outlive the store, every handle, ticket and writer.
  MemoryResource* memory = nullptr;
  std::unique_ptr<EvictionPolicy> eviction{};  ///< null: LRU
  std::vector<std::shared_ptr<Tier>> tiers{};  ///< behind memory, fastest first; may be empty
  SlabEncoding encoding{};                     ///< of every chunk in memory
};

/// A chunk is written to a tier once, when it is committed; leaving memory costs no I/O. A chunk that is fetched stays
/// in its tier and enters memory.
class Store {
 public:
  /// Refuses an invalid geometry, a capacity that is not positive, a null tier, an unknown format.
  [[nodiscard]] static PIKV_API Result<std::unique_ptr<Store>> create(StoreOptions options);
  /// No other call may be under way; handles, tickets and writers may live on.
  PIKV_API ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// Looks in memory; when that misses, asks each tier whether the chunk can be used where it lies (Tier::resident()),
  /// and answers kHit with a chunk whose encoding need not be the store's. Else starts (or joins) a fetch, when there
  /// are tiers, and answers kPending. Never blocks on storage. tokens: [T], what the caller believes the chunk holds;
  /// compared exactly. No tokens are a miss.
  [[nodiscard]] PIKV_API Lookup lookup(const ChunkKey& key, std::span<const TokenId> tokens);

  /// lookup(), then waits if need be: kHit or kMiss.
  [[nodiscard]] PIKV_API Lookup acquire(const ChunkKey& key, std::span<const TokenId> tokens);

  /// Brings a chunk of slower tiers into memory, also where a tier has it resident. The ticket's wait() sees it through
  /// and gives the chunk; dropped without, the fetch is abandoned. Not counted as a look-up. Invalid (wait() gives null
  /// and kNotFound) when there is nothing to wait for: no tokens, no tiers, or an entry of this key with other tokens.
  [[nodiscard]] PIKV_API FetchTicket prefetch(const ChunkKey& key, std::span<const TokenId> tokens);

  /// The chunk that memory holds under this key, pinned, or null; whatever its tokens are. Counts nothing and touches
  /// no recency: for tiers and tools, which have no tokens to compare.
  [[nodiscard]] PIKV_API ChunkHandle peek(const ChunkKey& key) const;

  /// True when memory holds the key; counts nothing and touches no recency.
  [[nodiscard]] PIKV_API bool contains(const ChunkKey& key) const;

  /// Makes room and a slab for a new chunk. tokens: [T], 1 <= T, copied. stream: on which the slab is allocated and
  /// that will fill it, since device memory is stream-ordered; a writer that is dropped gives the slab back behind it.
  /// Errors: kInvalidArgument for no tokens; kOutOfMemory, or the memory resource's own. Not having room is an outcome.
  [[nodiscard]] PIKV_API Result<ChunkWriter> begin_insert(const ChunkKey& key, const ChunkRecipe& recipe,
                                                          std::span<const TokenId> tokens,
                                                          StreamRef stream = StreamRef::legacy_default());

  /// Gone from memory and every tier when it returns OK, and not brought back by a fetch or an insert that was under
  /// way. Waits for a write of this chunk to a tier to end. Handles keep their bytes until dropped. A tier's error is
  /// returned after the others have been asked; memory has dropped the chunk even then. No look-up that begins after
  /// that hands the chunk out, from memory or from a tier.
  [[nodiscard]] PIKV_API Status erase(const ChunkKey& key);

  /// Walks over the chunks in memory to see which are pinned.
  [[nodiscard]] PIKV_API StoreStats stats() const;
  [[nodiscard]] PIKV_API const KvGeometry& geometry() const noexcept;
  [[nodiscard]] PIKV_API const SlabEncoding& encoding() const noexcept;

 private:
  explicit Store(std::shared_ptr<detail::StoreCore> core);
  std::shared_ptr<detail::StoreCore> core_;
};

}  // namespace v0
}  // namespace pikv
