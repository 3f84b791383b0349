// What a store is made of. Shared by the Store, its writers and its fetches, so that none of them dangles when the
// store goes first.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "memory_account.hpp"
#include "pikv/store.hpp"
#include "store_index.hpp"

namespace pikv::detail {

class StoreCore;

/// kNone for a chunk that is what `key` and `tokens` say, has this geometry and a slab of the size that its own
/// encoding needs; else what is wrong with it.
[[nodiscard]] MissReason verify_chunk(const Chunk& chunk, const ChunkKey& key, std::span<const TokenId> tokens,
                                      const KvGeometry& geometry) noexcept;

/// Of two chunks' encodings, whether both slabs mean the same. kPlain does not use a bias.
[[nodiscard]] inline bool same_encoding(const SlabEncoding& a, const SlabEncoding& b) noexcept {
  return a.format == b.format && (a.format == SlabFormat::kPlain || a.key_bias == b.key_bias);
}

/// The memory that one fetch is served from: makes room in the store first, and charges it. With the first allocation
/// it charges what the chunk takes beside its slab as well, so that room is made once and nothing is evicted in vain;
/// that part stays charged as long as this lives, which is as long as the fetched chunk.
class FetchMemory final : public MemoryResource {
 public:
  FetchMemory(StoreCore& core, MemoryResource& upstream, std::shared_ptr<MemoryAccount> account,
              std::size_t num_tokens) noexcept
      : core_(core),
        upstream_(upstream),
        account_(std::move(account)),
        overhead_bytes_(static_cast<std::int64_t>(num_tokens * sizeof(TokenId)) + Chunk::kBookkeepingBytes) {}
  ~FetchMemory() override;
  FetchMemory(const FetchMemory&) = delete;
  FetchMemory& operator=(const FetchMemory&) = delete;

  /// Of the chunk's footprint, what is charged here.
  [[nodiscard]] std::int64_t charged_bytes(const Chunk& chunk) const noexcept;
  [[nodiscard]] MemorySpace space() const noexcept override { return upstream_.space(); }
  [[nodiscard]] Result<void*> allocate_async(std::size_t size_bytes, StreamRef stream) override;
  void deallocate_async(void* data, std::size_t size_bytes, StreamRef stream) noexcept override;

 private:
  StoreCore& core_;  // only a fetch allocates, and every fetch keeps the core alive
  MemoryResource& upstream_;
  const std::shared_ptr<MemoryAccount> account_;
  const std::int64_t overhead_bytes_;
  std::atomic<bool> overhead_charged_ = false;
};

class StoreCore {
 public:
  /// options: checked by Store::create().
  explicit StoreCore(StoreOptions options);

  [[nodiscard]] StoreIndex& index() noexcept { return index_; }
  [[nodiscard]] const StoreIndex& index() const noexcept { return index_; }
  [[nodiscard]] const KvGeometry& geometry() const noexcept { return geometry_; }
  [[nodiscard]] const SlabEncoding& encoding() const noexcept { return encoding_; }
  [[nodiscard]] std::int64_t capacity_bytes() const noexcept { return capacity_bytes_; }
  [[nodiscard]] std::span<const std::shared_ptr<Tier>> tiers() const noexcept { return tiers_; }
  [[nodiscard]] MemoryResource& memory() noexcept { return memory_; }

  /// Evicts as needed. Nothing when there is no room beside what is pinned.
  [[nodiscard]] std::optional<Charge> make_room(std::int64_t bytes);
  struct ChunkSize {
    std::int64_t slab_bytes = 0;
    std::int64_t footprint_bytes = 0;
  };
  /// Of a chunk of so many tokens in the store's encoding; nothing when it is more than the whole capacity.
  [[nodiscard]] std::optional<ChunkSize> chunk_size(std::size_t num_tokens) const noexcept;
  [[nodiscard]] std::shared_ptr<FetchMemory> make_fetch_memory(std::size_t num_tokens);
  /// A verified chunk from a tier, charged for what `memory` has not charged already. Null when there is no room.
  [[nodiscard]] StoredChunkPtr adopt(Chunk chunk, std::shared_ptr<FetchMemory> memory);
  /// The chunk where it lies in the fastest tier that has it resident and right; null when none does.
  [[nodiscard]] ChunkHandle find_resident(const ChunkKey& key, std::span<const TokenId> tokens) noexcept;
  /// Writes to the fastest tier that takes the chunk, then tells the index so.
  void write_to_tier(const ChunkHandle& chunk) noexcept;

 private:
  const KvGeometry geometry_;
  const SlabEncoding encoding_;
  const std::int64_t capacity_bytes_;
  MemoryResource& memory_;
  const std::vector<std::shared_ptr<Tier>> tiers_;
  const std::shared_ptr<MemoryAccount> account_;
  StoreIndex index_;
};

}  // namespace pikv::detail
