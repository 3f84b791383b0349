// Where chunks live: an immutable chunk in memory (Chunk), the pin on it (ChunkHandle), and the form that an
// implementer of slower storage fills in (Tier).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pikv/chunk_key.hpp"
#include "pikv/geometry.hpp"
#include "pikv/memory.hpp"
#include "pikv/slab.hpp"
#include "pikv/status.hpp"

namespace pikv {
inline namespace v0 {

/// A chunk in memory: its tokens, its recipe and one slab of semantic keys and values, encoded as encoding() says
/// (slab.hpp). Immutable once published.
class Chunk {
 public:
  /// Charged for a chunk's index entry, eviction order and control block, whatever their true size on a platform.
  static constexpr std::int64_t kBookkeepingBytes = 512;

  /// slab: slab_sections(geometry, encoding.format, num tokens).slab_bytes(num_layers) bytes, filled. A store refuses a
  /// chunk of another size.
  Chunk(const ChunkKey& key, const ChunkRecipe& recipe, std::vector<TokenId> tokens, const KvGeometry& geometry,
        Buffer slab, const SlabEncoding& encoding = {}) noexcept
      : key_(key),
        recipe_(recipe),
        tokens_(std::move(tokens)),
        geometry_(geometry),
        slab_(std::move(slab)),
        encoding_(encoding) {}

  [[nodiscard]] const ChunkKey& key() const noexcept { return key_; }
  [[nodiscard]] const ChunkRecipe& recipe() const noexcept { return recipe_; }
  [[nodiscard]] std::span<const TokenId> tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::int64_t num_tokens() const noexcept { return static_cast<std::int64_t>(tokens_.size()); }
  [[nodiscard]] const KvGeometry& geometry() const noexcept { return geometry_; }
  [[nodiscard]] const SlabEncoding& encoding() const noexcept { return encoding_; }
  /// Whether K and V are less than what was inserted: true of every format but kPlain.
  [[nodiscard]] bool is_lossy() const noexcept { return encoding_.format != SlabFormat::kPlain; }
  /// The slab's bytes, all of them.
  [[nodiscard]] std::span<const std::byte> slab() const noexcept { return {slab_.data(), slab_.size_bytes()}; }
  /// Which resource the slab was allocated from.
  [[nodiscard]] const MemoryResource* slab_resource() const noexcept { return slab_.resource(); }
  /// The slab in whatever format it is, as transfers take it (KvRun::slab).
  [[nodiscard]] ConstSlabView slab_view() const noexcept {
    return ConstSlabView{slab_.data(), num_tokens(), encoding_, slab_.space()};
  }
  /// The slab as a view whose slots are the chunk's tokens. Requires: encoding().format is kPlain; else the view has
  /// null bases, which every transfer refuses.
  [[nodiscard]] PIKV_API ConstKvView view() const noexcept;
  /// What a capacity is charged for this chunk: the slab, the tokens and kBookkeepingBytes.
  [[nodiscard]] PIKV_API std::int64_t footprint_bytes() const noexcept;

 private:
  friend class ChunkWriter;
  ChunkKey key_;
  ChunkRecipe recipe_;
  std::vector<TokenId> tokens_;
  KvGeometry geometry_;
  Buffer slab_;
  SlabEncoding encoding_;
};

/// A pin: while any copy of the handle lives, the chunk's bytes stay where they are, even when the chunk is evicted or
/// erased meanwhile. Copying and dropping are thread-safe; one handle object is not to be shared between threads
/// without care, like a shared_ptr. May outlive the store.
using ChunkHandle = std::shared_ptr<const Chunk>;

/// A fetch that has begun. wait() is called at most once, from any thread; a fetch destroyed without it is abandoned.
/// Neither touches the memory resource any more once it has returned, but for the chunk handed out.
class TierFetch {
 public:
  virtual ~TierFetch() = default;
  /// The chunk, with its slab allocated from the resource given to begin_fetch(); nullopt when the tier does not hold
  /// it (any more). kCorruption when stored bytes fail their checks; kUnavailable or kIoError when out of reach; the
  /// resource's own status when it refuses (kQuotaExceeded: the store has no room).
  [[nodiscard]] virtual Result<std::optional<Chunk>> wait() = 0;
};

struct TierStats {
  std::int64_t num_chunks = 0;
  std::int64_t used_bytes = 0;
};

/// Storage behind the store's memory: host memory beside a device's, a disk, a remote service. Implementations must
/// allow concurrent calls and never call back into the store. Every failure is a Status; nothing throws.
///
/// A tier hands out what it was given, or chunks whose encoding() says that they are less: what comes back as kPlain is
/// believed to be exact. A store takes into its memory only chunks of its own encoding; others can still be used
/// through resident().
class Tier {
 public:
  virtual ~Tier() = default;

  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  /// Stores a copy; storing what is there already is success. kQuotaExceeded when there is no room.
  [[nodiscard]] virtual Status put(const ChunkHandle& chunk) = 0;
  /// Starts to bring a chunk; must not block for longer than it takes to start, and never returns null. Allocating from
  /// `memory` makes room in the store, so it is done once the tier knows that it holds the chunk, and with no lock held
  /// that put() or erase() takes. `memory` stays alive as long as the fetch and anything allocated from it.
  [[nodiscard]] virtual std::unique_ptr<TierFetch> begin_fetch(const ChunkKey& key, MemoryResource& memory) = 0;
  /// The chunk itself, pinned, where it lies, for tiers whose memory the backend reads directly (page-locked host
  /// memory); null when the tier does not hold it, or holds it elsewhere. A store answers a look-up with it instead of
  /// starting a fetch; it stays in its tier. tokens: [T], what the caller believes the chunk holds. Must not block on
  /// storage.
  [[nodiscard]] virtual ChunkHandle resident(const ChunkKey& key, std::span<const TokenId> tokens) {
    static_cast<void>(key);
    static_cast<void>(tokens);
    return nullptr;
  }
  /// Gone when it returns OK, whether or not it was there; resident() does not hand it out any more.
  [[nodiscard]] virtual Status erase(const ChunkKey& key) = 0;
  [[nodiscard]] virtual TierStats stats() const = 0;
};

/// Chooses what leaves memory first. Knows exactly the chunks that are findable in memory. Called under the store's
/// lock, one call at a time; must not call back. Only on_insert() may throw, std::bad_alloc, and has then done nothing.
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  /// `key` is not known yet.
  virtual void on_insert(const ChunkKey& key, std::int64_t footprint_bytes) = 0;
  virtual void on_access(const ChunkKey& key) = 0;
  virtual void on_remove(const ChunkKey& key) = 0;

  class Visitor {
   public:
    virtual ~Visitor() = default;
    /// True to go on to the next candidate. The store takes note of what it wants and evicts after the visit, or
    /// nothing at all when the candidates do not suffice; pinned chunks are passed over.
    [[nodiscard]] virtual bool visit(const ChunkKey& key) = 0;
  };
  /// Shows every known key at most once, best victim first, until the visitor has seen enough. Changes nothing;
  /// on_remove() follows for what is evicted.
  virtual void visit_victims(Visitor& visitor) const = 0;
};

/// Least recently used first.
[[nodiscard]] PIKV_API std::unique_ptr<EvictionPolicy> make_lru_eviction();

}  // namespace v0
}  // namespace pikv
