// A tier in memory that answers as it is told, also badly.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pikv/tier.hpp"

namespace test_support {

class ScriptedTier final : public pikv::Tier {
 public:
  enum class Answer : std::uint8_t {
    kWhatItHolds,
    kNothing,
    kUnavailable,
    kTimesOut,  ///< kUnavailable, after a while
    kCorruption,
    kOtherTokens,  ///< a chunk of this key and size, but with another token
    kOtherSize,    ///< a slab that is one byte short
  };

  void answer_with(Answer answer) { answer_ = answer; }
  [[nodiscard]] int num_fetches() const { return num_fetches_; }

  std::string_view name() const noexcept override { return "scripted"; }

  pikv::Status put(const pikv::ChunkHandle& chunk) override {
    Stored stored{chunk->recipe(),
                  {chunk->tokens().begin(), chunk->tokens().end()},
                  chunk->geometry(),
                  {chunk->slab().begin(), chunk->slab().end()}};
    const std::lock_guard lock(mutex_);
    stored_.emplace(chunk->key(), std::move(stored));
    return {};
  }

  std::unique_ptr<pikv::TierFetch> begin_fetch(const pikv::ChunkKey& key, pikv::MemoryResource& memory) override {
    ++num_fetches_;
    return std::make_unique<Fetch>(*this, key, memory);
  }

  pikv::Status erase(const pikv::ChunkKey& key) override {
    const std::lock_guard lock(mutex_);
    stored_.erase(key);
    return {};
  }

  pikv::TierStats stats() const override {
    const std::lock_guard lock(mutex_);
    return {.num_chunks = static_cast<std::int64_t>(stored_.size()), .used_bytes = 0};
  }

 private:
  struct Stored {
    pikv::ChunkRecipe recipe;
    std::vector<pikv::TokenId> tokens;
    pikv::KvGeometry geometry;
    std::vector<std::byte> slab;
  };

  class Fetch final : public pikv::TierFetch {
   public:
    Fetch(ScriptedTier& tier, const pikv::ChunkKey& key, pikv::MemoryResource& memory)
        : tier_(tier), key_(key), memory_(memory) {}

    pikv::Result<std::optional<pikv::Chunk>> wait() override {
      const Answer answer = tier_.answer_;
      if (answer == Answer::kTimesOut) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (answer == Answer::kUnavailable || answer == Answer::kTimesOut) {
        return pikv::Status(pikv::ErrorCode::kUnavailable, "scripted: out of reach");
      }
      if (answer == Answer::kCorruption) return pikv::corruption("scripted: checksum");
      std::optional<Stored> stored = tier_.find(key_);
      if (!stored.has_value() || answer == Answer::kNothing) return std::optional<pikv::Chunk>();
      if (answer == Answer::kOtherTokens) ++stored->tokens.back();
      if (answer == Answer::kOtherSize) stored->slab.pop_back();
      pikv::Result<pikv::Buffer> slab =
          pikv::Buffer::allocate(stored->slab.size(), memory_, pikv::StreamRef::legacy_default());
      if (!slab.ok()) return slab.status();
      std::memcpy(slab->data(), stored->slab.data(), stored->slab.size());
      return std::optional<pikv::Chunk>(
          pikv::Chunk(key_, stored->recipe, std::move(stored->tokens), stored->geometry, std::move(*slab)));
    }

   private:
    ScriptedTier& tier_;
    pikv::ChunkKey key_;
    pikv::MemoryResource& memory_;
  };

  std::optional<Stored> find(const pikv::ChunkKey& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = stored_.find(key);
    return found == stored_.end() ? std::nullopt : std::optional<Stored>(found->second);
  }

  mutable std::mutex mutex_;
  std::map<pikv::ChunkKey, Stored> stored_;
  std::atomic<Answer> answer_{Answer::kWhatItHolds};
  std::atomic<int> num_fetches_{0};
};

}  // namespace test_support
