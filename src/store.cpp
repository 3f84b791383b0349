// Lock order. There are two kinds of mutex: the index's (StoreIndex) and one for each fetch (FetchState). No thread
// ever holds two of them. Neither is held while a tier or a memory resource is called, while a chunk is freed, or while
// a FetchState may be destroyed, whose destructor takes the index's. Only the eviction policy is called under a lock,
// the index's.
#include "pikv/store.hpp"

#include <new>
#include <string>
#include <utility>

#include "fetch_state.hpp"
#include "store_core.hpp"

namespace pikv {
inline namespace v0 {

const char* miss_reason_name(MissReason reason) noexcept {
  switch (reason) {
    case MissReason::kNone:
      return "None";
    case MissReason::kNotFound:
      return "NotFound";
    case MissReason::kTokensDiffer:
      return "TokensDiffer";
    case MissReason::kVerifyFailed:
      return "VerifyFailed";
    case MissReason::kTierUnavailable:
      return "TierUnavailable";
    case MissReason::kNoRoom:
      return "NoRoom";
    case MissReason::kOtherEncoding:
      return "OtherEncoding";
  }
  return "unknown";
}

const char* insert_outcome_name(InsertOutcome outcome) noexcept {
  switch (outcome) {
    case InsertOutcome::kInserted:
      return "Inserted";
    case InsertOutcome::kAlreadyPresent:
      return "AlreadyPresent";
    case InsertOutcome::kInProgress:
      return "InProgress";
    case InsertOutcome::kNoRoom:
      return "NoRoom";
  }
  return "unknown";
}

Result<std::unique_ptr<Store>> Store::create(StoreOptions options) try {
  PIKV_TRY(validate(options.geometry));
  if (options.capacity_bytes <= 0) {
    return invalid_argument("Store: capacity_bytes is " + std::to_string(options.capacity_bytes) + ", not positive");
  }
  for (std::size_t i = 0; i < options.tiers.size(); ++i) {
    if (options.tiers[i] == nullptr) return invalid_argument("Store: tiers[" + std::to_string(i) + "] is null");
  }
  if (options.encoding.format > SlabFormat::kInt4) {
    return invalid_argument("Store: encoding.format is " + std::to_string(static_cast<int>(options.encoding.format)) +
                            ", not a format");
  }
  return std::unique_ptr<Store>(new Store(std::make_shared<detail::StoreCore>(std::move(options))));
} catch (const std::bad_alloc&) {
  return out_of_memory("Store: no memory for its state");
}

Store::Store(std::shared_ptr<detail::StoreCore> core) : core_(std::move(core)) {}

Store::~Store() { core_->index().close(); }

Lookup Store::lookup(const ChunkKey& key, std::span<const TokenId> tokens) {
  using Kind = detail::StoreIndex::Found::Kind;
  const auto miss = [&](MissReason reason) {
    Lookup lookup;
    lookup.reason = reason;
    return lookup;
  };
  const auto counted_miss = [&](MissReason reason) {
    core_->index().count_miss(static_cast<std::int64_t>(tokens.size()));
    return miss(reason);
  };
  if (tokens.empty()) return counted_miss(MissReason::kNotFound);

  try {
    detail::StoreIndex::Found found = core_->index().find(key, tokens, nullptr);
    std::shared_ptr<detail::FetchState> fetch;
    if (found.kind == Kind::kAbsent) {
      if (core_->tiers().empty()) return counted_miss(MissReason::kNotFound);
      if (ChunkHandle resident = core_->find_resident(key, tokens); resident != nullptr) {
        core_->index().count_resident_hit(*resident);
        Lookup lookup = miss(MissReason::kNone);
        lookup.state = LookupState::kHit;
        lookup.chunk = std::move(resident);
        return lookup;
      }
      fetch = std::make_shared<detail::FetchState>(core_, key, tokens);
      found = core_->index().find(key, tokens, fetch);
      if (found.kind == Kind::kAbsent) {
        fetch->start(found.id);
        found.fetch = std::move(fetch);
      }
    }
    switch (found.kind) {
      case Kind::kHit: {
        Lookup lookup = miss(MissReason::kNone);
        lookup.state = LookupState::kHit;
        lookup.chunk = detail::handle_of(std::move(found.chunk));
        return lookup;
      }
      case Kind::kTokensDiffer:
        return miss(MissReason::kTokensDiffer);
      case Kind::kJoined:
      case Kind::kAbsent:
        break;
    }
    Lookup lookup = miss(MissReason::kNone);
    lookup.state = LookupState::kPending;
    lookup.ticket = FetchTicket(std::move(found.fetch));
    return lookup;
  } catch (const std::bad_alloc&) {
    return counted_miss(MissReason::kNoRoom);
  }
}

Lookup Store::acquire(const ChunkKey& key, std::span<const TokenId> tokens) {
  Lookup lookup = this->lookup(key, tokens);
  if (lookup.state == LookupState::kPending) {
    lookup.chunk = lookup.ticket.wait(&lookup.reason);
    lookup.state = lookup.chunk != nullptr ? LookupState::kHit : LookupState::kMiss;
    lookup.ticket = FetchTicket();
  }
  return lookup;
}

FetchTicket Store::prefetch(const ChunkKey& key, std::span<const TokenId> tokens) {
  using Kind = detail::StoreIndex::Found::Kind;
  if (tokens.empty()) return {};
  try {
    auto fetch = std::make_shared<detail::FetchState>(core_, key, tokens);
    detail::StoreIndex::Found found =
        core_->index().begin_prefetch(key, tokens, core_->tiers().empty() ? nullptr : fetch);
    switch (found.kind) {
      case Kind::kHit:
        fetch->complete(detail::handle_of(std::move(found.chunk)));
        return FetchTicket(std::move(fetch));
      case Kind::kJoined:
        return FetchTicket(std::move(found.fetch));
      case Kind::kAbsent:
        if (found.id == 0) return {};
        fetch->start(found.id);
        return FetchTicket(std::move(fetch));
      case Kind::kTokensDiffer:
        break;
    }
  } catch (const std::bad_alloc&) {
    // A prefetch is a favour: without it the chunk is fetched when it is looked up.
  }
  return {};
}

ChunkHandle Store::peek(const ChunkKey& key) const { return detail::handle_of(core_->index().peek(key)); }

bool Store::contains(const ChunkKey& key) const { return core_->index().contains(key); }

Status Store::erase(const ChunkKey& key) try {
  struct Finish {
    detail::StoreIndex& index;
    const ChunkKey& key;
    ~Finish() { index.finish_erase(key).reset(); }
  };
  core_->index().begin_erase(key).reset();
  const Finish finish{core_->index(), key};
  Status failure;
  for (const std::shared_ptr<Tier>& tier : core_->tiers()) {
    Status status = tier->erase(key);
    if (status.ok()) continue;
    core_->index().count_tier_failure();
    if (failure.ok()) failure = std::move(status);
  }
  return failure;
} catch (const std::bad_alloc&) {
  return out_of_memory("Store: no memory for the bookkeeping of an erase");
}

StoreStats Store::stats() const { return core_->index().stats(); }

const KvGeometry& Store::geometry() const noexcept { return core_->geometry(); }

const SlabEncoding& Store::encoding() const noexcept { return core_->encoding(); }

}  // namespace v0
}  // namespace pikv
