#include "store_core.hpp"

#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <string>
#include <utility>

namespace pikv::detail {
namespace {

/// Slab bytes of so many tokens; nothing when that is more than `room_bytes`. Requires: room_bytes >= 0.
std::optional<std::int64_t> slab_bytes_within(std::int64_t room_bytes, std::size_t num_tokens,
                                              const KvGeometry& geometry, SlabFormat format) noexcept {
  const std::int64_t plain_bytes = geometry.bytes_per_token();
  // No format takes less than an eighth of the plain bytes (4 bits for fp32), nor, with scales and padding, four times
  // as many for each token. So what is bounded here is computed below without overflow; the second bound alone refuses
  // nothing below 2^58 bytes.
  const std::int64_t least_bytes =
      format == SlabFormat::kPlain ? plain_bytes : std::max<std::int64_t>(plain_bytes / 8, 1);
  const std::int64_t most_tokens =
      std::min(room_bytes / least_bytes, std::numeric_limits<std::int64_t>::max() / 8 / plain_bytes);
  if (num_tokens > static_cast<std::size_t>(most_tokens)) return std::nullopt;
  const std::int64_t slab_bytes =
      slab_sections(geometry, format, static_cast<std::int64_t>(num_tokens)).slab_bytes(geometry.num_layers);
  if (slab_bytes > room_bytes) return std::nullopt;
  return slab_bytes;
}

}  // namespace

MissReason verify_chunk(const Chunk& chunk, const ChunkKey& key, std::span<const TokenId> tokens,
                        const KvGeometry& geometry) noexcept {
  if (chunk.key() != key || chunk.geometry() != geometry) return MissReason::kVerifyFailed;
  if (!std::ranges::equal(tokens, chunk.tokens())) return MissReason::kTokensDiffer;
  if (chunk.encoding().format > SlabFormat::kInt4) return MissReason::kVerifyFailed;
  const auto slab_bytes = static_cast<std::int64_t>(chunk.slab().size());
  if (slab_bytes_within(slab_bytes, chunk.tokens().size(), geometry, chunk.encoding().format) != slab_bytes) {
    return MissReason::kVerifyFailed;
  }
  return MissReason::kNone;
}

FetchMemory::~FetchMemory() {
  if (overhead_charged_) account_->release(overhead_bytes_);
}

std::int64_t FetchMemory::charged_bytes(const Chunk& chunk) const noexcept {
  const std::int64_t slab_bytes = chunk.slab_resource() == this ? static_cast<std::int64_t>(chunk.slab().size()) : 0;
  return slab_bytes + (overhead_charged_ ? overhead_bytes_ : 0);
}

Result<void*> FetchMemory::allocate_async(std::size_t size_bytes, StreamRef stream) try {
  const auto no_room = [&] {
    return Status(ErrorCode::kQuotaExceeded, "Store: no room for " + std::to_string(size_bytes) + " bytes to fetch");
  };
  const std::int64_t room_bytes = core_.capacity_bytes() - overhead_bytes_;
  if (room_bytes < 0 || size_bytes > static_cast<std::size_t>(room_bytes)) return no_room();
  // Two threads of a tier may both charge the overhead; one of them gives it back.
  const std::int64_t overhead_bytes = overhead_charged_ ? 0 : overhead_bytes_;
  std::optional<Charge> charge = core_.make_room(static_cast<std::int64_t>(size_bytes) + overhead_bytes);
  if (!charge.has_value()) return no_room();
  Result<void*> data = upstream_.allocate_async(size_bytes, stream);
  if (!data.ok()) return data.status();
  charge->keep();
  if (overhead_bytes != 0 && overhead_charged_.exchange(true)) account_->release(overhead_bytes);
  return data;
} catch (const std::bad_alloc&) {
  return out_of_memory("Store: no memory to make room for a fetch");
}

void FetchMemory::deallocate_async(void* data, std::size_t size_bytes, StreamRef stream) noexcept {
  upstream_.deallocate_async(data, size_bytes, stream);
  account_->release(static_cast<std::int64_t>(size_bytes));
}

StoreCore::StoreCore(StoreOptions options)
    : geometry_(options.geometry),
      encoding_(options.encoding),
      capacity_bytes_(options.capacity_bytes),
      memory_(options.memory != nullptr ? *options.memory : host_memory_resource()),
      tiers_(std::move(options.tiers)),
      account_(std::make_shared<MemoryAccount>()),
      index_(capacity_bytes_, account_,
             options.eviction != nullptr ? std::move(options.eviction) : make_lru_eviction()) {}

std::optional<Charge> StoreCore::make_room(std::int64_t bytes) {
  while (true) {
    std::vector<StoredChunkPtr> victims;
    std::int64_t victims_bytes = 0;
    switch (index_.charge(bytes, victims, victims_bytes)) {
      case StoreIndex::Room::kCharged:
        return Charge(account_, bytes);
      case StoreIndex::Room::kNone:
        return std::nullopt;
      case StoreIndex::Room::kEvicted:
        break;
    }
    victims.clear();  // frees them, with no lock held
    index_.finish_eviction(victims_bytes);
  }
}

std::optional<StoreCore::ChunkSize> StoreCore::chunk_size(std::size_t num_tokens) const noexcept {
  constexpr auto kTokenBytes = static_cast<std::int64_t>(sizeof(TokenId));
  const std::int64_t room_bytes = capacity_bytes_ - Chunk::kBookkeepingBytes;
  if (room_bytes < 0 || num_tokens > static_cast<std::size_t>(room_bytes / kTokenBytes)) return std::nullopt;
  const std::int64_t beside_bytes = static_cast<std::int64_t>(num_tokens) * kTokenBytes;
  const std::optional<std::int64_t> slab_bytes =
      slab_bytes_within(room_bytes - beside_bytes, num_tokens, geometry_, encoding_.format);
  if (!slab_bytes.has_value()) return std::nullopt;
  return ChunkSize{*slab_bytes, *slab_bytes + beside_bytes + Chunk::kBookkeepingBytes};
}

std::shared_ptr<FetchMemory> StoreCore::make_fetch_memory(std::size_t num_tokens) {
  return std::make_shared<FetchMemory>(*this, memory_, account_, num_tokens);
}

StoredChunkPtr StoreCore::adopt(Chunk chunk, std::shared_ptr<FetchMemory> memory) {
  std::optional<Charge> charge = make_room(chunk.footprint_bytes() - memory->charged_bytes(chunk));
  if (!charge.has_value()) return nullptr;
  return std::make_shared<StoredChunk>(std::move(memory), std::move(*charge), std::move(chunk));
}

ChunkHandle StoreCore::find_resident(const ChunkKey& key, std::span<const TokenId> tokens) noexcept {
  for (const std::shared_ptr<Tier>& tier : tiers_) {
    ChunkHandle chunk;
    try {
      chunk = tier->resident(key, tokens);
    } catch (const std::exception&) {
      continue;
    }
    // A chunk that is not right is passed over: the fetch that follows finds the flaw, reports it and drops the entry.
    if (chunk != nullptr && verify_chunk(*chunk, key, tokens, geometry_) == MissReason::kNone) return chunk;
  }
  return nullptr;
}

void StoreCore::write_to_tier(const ChunkHandle& chunk) noexcept {
  for (const std::shared_ptr<Tier>& tier : tiers_) {
    ErrorCode code = ErrorCode::kInternal;
    try {
      code = tier->put(chunk).code();
    } catch (const std::exception&) {
      // A tier that breaks its promise not to throw has failed like any other.
    }
    if (code == ErrorCode::kOk) break;
    if (code != ErrorCode::kQuotaExceeded) index_.count_tier_failure();
  }
  index_.finish_put(chunk->key());
}

}  // namespace pikv::detail
