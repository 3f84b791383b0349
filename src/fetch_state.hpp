// One fetch from the tiers, shared by all look-ups for its key while it is under way.
//
// The first tier begins to work at the look-up; from then on the fetch is driven by whoever waits first, on its own
// thread, and the others sleep until it is done. When the last ticket is dropped without anybody having waited, the
// fetch is abandoned and its registration goes with it. So there is no thread to manage, and nothing to hang on.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "detail/thread_annotations.hpp"
#include "pikv/store.hpp"
#include "store_index.hpp"

namespace pikv::detail {

class FetchMemory;
class StoreCore;

class FetchState {
 public:
  /// tokens: copied; what the chunk must turn out to hold.
  FetchState(std::shared_ptr<StoreCore> core, const ChunkKey& key, std::span<const TokenId> tokens);
  ~FetchState();
  FetchState(const FetchState&) = delete;
  FetchState& operator=(const FetchState&) = delete;

  [[nodiscard]] std::span<const TokenId> tokens() const noexcept { return tokens_; }

  /// Begins with the first tier. Called once, by whoever registered the fetch under `id`; until then wait() blocks.
  void start(WorkId id) noexcept;
  /// Instead of start(): there is nothing to fetch, memory has the chunk.
  void complete(ChunkHandle chunk) noexcept;
  /// See FetchTicket::wait().
  [[nodiscard]] ChunkHandle wait(MissReason* reason) noexcept;

 private:
  struct Outcome {
    ChunkHandle chunk;
    MissReason reason = MissReason::kNotFound;
  };

  // Called by the thread that made busy_ true, without a lock.
  void begin_tier() noexcept;
  [[nodiscard]] Outcome run() noexcept;
  [[nodiscard]] Outcome take_from_tier();

  const std::shared_ptr<StoreCore> core_;
  const ChunkKey key_;
  const std::vector<TokenId> tokens_;

  Mutex mutex_;
  CondVar changed_;
  bool busy_ PIKV_GUARDED_BY(mutex_) = true;  // someone owns what follows: at first the thread that will call start()
  bool done_ PIKV_GUARDED_BY(mutex_) = false;
  Outcome outcome_ PIKV_GUARDED_BY(mutex_);

  // Owned by the thread that made busy_ true.
  WorkId id_ = 0;  // 0 unless registered
  std::size_t tier_index_ = 0;
  std::shared_ptr<FetchMemory> memory_;  // until the fetch is done
  std::unique_ptr<TierFetch> tier_fetch_;
};

}  // namespace pikv::detail
