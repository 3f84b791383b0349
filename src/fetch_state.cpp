#include "fetch_state.hpp"

#include <exception>
#include <utility>

#include "store_core.hpp"

namespace pikv {
namespace detail {

FetchState::FetchState(std::shared_ptr<StoreCore> core, const ChunkKey& key, std::span<const TokenId> tokens)
    : core_(std::move(core)),
      key_(key),
      tokens_(tokens.begin(), tokens.end()),
      memory_(core_->make_fetch_memory(tokens.size())) {}

FetchState::~FetchState() {
  tier_fetch_.reset();
  if (id_ != 0) core_->index().end_fetch(key_, id_);
}

void FetchState::start(WorkId id) noexcept {
  id_ = id;
  begin_tier();
  MutexLock lock(mutex_);
  busy_ = false;
  changed_.notify_all();
}

void FetchState::complete(ChunkHandle chunk) noexcept {
  memory_.reset();
  MutexLock lock(mutex_);
  outcome_ = {std::move(chunk), MissReason::kNone};
  busy_ = false;
  done_ = true;
  changed_.notify_all();
}

ChunkHandle FetchState::wait(MissReason* reason) noexcept {
  {
    MutexLock lock(mutex_);
    while (busy_) changed_.wait(mutex_);
    if (done_) {
      if (reason != nullptr) *reason = outcome_.reason;
      return outcome_.chunk;
    }
    busy_ = true;
  }
  Outcome outcome = run();
  MutexLock lock(mutex_);
  outcome_ = outcome;
  busy_ = false;
  done_ = true;
  changed_.notify_all();
  if (reason != nullptr) *reason = outcome.reason;
  return std::move(outcome.chunk);
}

void FetchState::begin_tier() noexcept {
  try {
    tier_fetch_ = core_->tiers()[tier_index_]->begin_fetch(key_, *memory_);
  } catch (const std::exception&) {
    tier_fetch_ = nullptr;  // reported by take_from_tier()
  }
}

FetchState::Outcome FetchState::run() noexcept {
  Outcome outcome;
  for (; id_ != 0 && tier_index_ < core_->tiers().size(); ++tier_index_) {
    if (tier_fetch_ == nullptr) begin_tier();
    Outcome attempt;
    try {
      attempt = take_from_tier();
    } catch (const std::bad_alloc&) {
      attempt.reason = MissReason::kNoRoom;
    } catch (const std::exception&) {
      core_->index().count_tier_failure();
      attempt.reason = MissReason::kTierUnavailable;
    }
    tier_fetch_.reset();
    const MissReason reason = attempt.reason;
    // Of several reasons the fastest tier's is told; that a tier does not hold the chunk says least.
    if (reason == MissReason::kNone || outcome.reason == MissReason::kNotFound) outcome = std::move(attempt);
    if (reason == MissReason::kNoRoom) break;
  }
  memory_.reset();
  if (id_ != 0) core_->index().end_fetch(key_, std::exchange(id_, 0));
  return outcome;
}

FetchState::Outcome FetchState::take_from_tier() {
  if (tier_fetch_ == nullptr) {
    core_->index().count_tier_failure();
    return {nullptr, MissReason::kTierUnavailable};
  }
  Result<std::optional<Chunk>> fetched = tier_fetch_->wait();
  if (!fetched.ok()) {
    switch (fetched.status().code()) {
      case ErrorCode::kCorruption:
        core_->index().count_verify_failure();
        return {nullptr, MissReason::kVerifyFailed};
      case ErrorCode::kQuotaExceeded:
      case ErrorCode::kOutOfMemory:
        return {nullptr, MissReason::kNoRoom};
      default:
        core_->index().count_tier_failure();
        return {nullptr, MissReason::kTierUnavailable};
    }
  }
  if (!fetched->has_value()) return {nullptr, MissReason::kNotFound};
  const Chunk& chunk_of_tier = **fetched;
  const MissReason flaw = verify_chunk(chunk_of_tier, key_, tokens_, core_->geometry());
  if (flaw != MissReason::kNone) {
    core_->index().count_verify_failure();
    const Status erased = core_->tiers()[tier_index_]->erase(key_);
    if (!erased.ok()) core_->index().count_tier_failure();
    return {nullptr, flaw};
  }
  if (!same_encoding(chunk_of_tier.encoding(), core_->encoding())) return {nullptr, MissReason::kOtherEncoding};
  const StoredChunkPtr stored = core_->adopt(std::move(**fetched), memory_);
  if (stored == nullptr) return {nullptr, MissReason::kNoRoom};
  ChunkHandle chunk = handle_of(core_->index().publish_fetch(key_, id_, stored));
  id_ = 0;  // published, or erased meanwhile: in both cases there is nothing left to try
  const MissReason reason = chunk == nullptr ? MissReason::kNotFound : MissReason::kNone;
  return {std::move(chunk), reason};
}

}  // namespace detail

inline namespace v0 {

ChunkHandle FetchTicket::wait(MissReason* reason) const {
  if (state_ != nullptr) return state_->wait(reason);
  if (reason != nullptr) *reason = MissReason::kNotFound;
  return nullptr;
}

}  // namespace v0
}  // namespace pikv
