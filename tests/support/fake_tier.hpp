// A tier in memory that can be slow, held up at a gate, broken and wrong.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pikv/tier.hpp"

namespace test_support {

/// Lets callers through, or holds them until it is opened.
class Gate {
 public:
  void close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++num_arrived_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  /// Blocks until so many have come to the gate since the beginning.
  void await_arrivals(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return num_arrived_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int num_arrived_ = 0;
};

/// What a fetch does instead of what it should.
enum class Fault {
  kNone,
  kUnavailable,
  kIoError,
  kCorruption,
  kVanishes,  ///< the chunk is gone
  kWrongTokens,
  kWrongKey,
  kWrongGeometry,
  kWrongSize,      ///< a slab shorter than the tokens need
  kNoFetch,        ///< begin_fetch() returns null
  kThrows,         ///< std::bad_alloc, from wait()
  kForeignMemory,  ///< the slab comes from another resource
};

/// Thread-safe; the members that set it up are called before or between uses.
class FakeTier final : public pikv::Tier {
 public:
  Gate wait_gate;   ///< passed by every TierFetch::wait() before it reads
  Gate read_gate;   ///< passed by every TierFetch::wait() once it has read
  Gate put_gate;    ///< passed by every put() before it stores
  Gate erase_gate;  ///< passed by every erase() before it erases
  std::atomic<Fault> fault = Fault::kNone;
  std::atomic<pikv::ErrorCode> put_answer = pikv::ErrorCode::kOk;
  std::atomic<pikv::ErrorCode> erase_answer = pikv::ErrorCode::kOk;
  std::atomic<int> delay_us = 0;  ///< of wait() and put()

  std::atomic<int> num_fetches = 0, num_waits = 0, num_live_fetches = 0, num_puts = 0, num_erases = 0;

  [[nodiscard]] bool holds(const pikv::ChunkKey& key) const {
    const std::lock_guard lock(mutex_);
    return stored_.count(key) != 0;
  }

  [[nodiscard]] std::string_view name() const noexcept override { return "fake"; }

  [[nodiscard]] pikv::Status put(const pikv::ChunkHandle& chunk) override {
    ++num_puts;
    put_gate.pass();
    sleep();
    if (put_answer != pikv::ErrorCode::kOk) return pikv::Status(put_answer, "FakeTier: put fails on purpose");
    Stored stored{chunk->recipe(),
                  {chunk->tokens().begin(), chunk->tokens().end()},
                  chunk->geometry(),
                  {chunk->slab().begin(), chunk->slab().end()},
                  chunk->encoding()};
    const std::lock_guard lock(mutex_);
    stored_.insert_or_assign(chunk->key(), std::move(stored));
    return {};
  }

  [[nodiscard]] std::unique_ptr<pikv::TierFetch> begin_fetch(const pikv::ChunkKey& key,
                                                             pikv::MemoryResource& memory) override {
    ++num_fetches;
    if (fault == Fault::kNoFetch) return nullptr;
    return std::make_unique<Fetch>(*this, key, memory);
  }

  [[nodiscard]] pikv::Status erase(const pikv::ChunkKey& key) override {
    ++num_erases;
    erase_gate.pass();
    if (erase_answer != pikv::ErrorCode::kOk) return pikv::Status(erase_answer, "FakeTier: erase fails on purpose");
    const std::lock_guard lock(mutex_);
    stored_.erase(key);
    return {};
  }

  [[nodiscard]] pikv::TierStats stats() const override {
    const std::lock_guard lock(mutex_);
    pikv::TierStats stats;
    for (const auto& [key, stored] : stored_) {
      ++stats.num_chunks;
      stats.used_bytes += static_cast<std::int64_t>(stored.slab.size());
    }
    return stats;
  }

 private:
  struct Stored {
    pikv::ChunkRecipe recipe;
    std::vector<pikv::TokenId> tokens;
    pikv::KvGeometry geometry;
    std::vector<std::byte> slab;
    pikv::SlabEncoding encoding;
  };

  class Fetch final : public pikv::TierFetch {
   public:
    Fetch(FakeTier& tier, const pikv::ChunkKey& key, pikv::MemoryResource& memory)
        : tier_(tier), key_(key), memory_(memory) {
      ++tier_.num_live_fetches;
    }
    ~Fetch() override { --tier_.num_live_fetches; }
    Fetch(const Fetch&) = delete;
    Fetch& operator=(const Fetch&) = delete;

    [[nodiscard]] pikv::Result<std::optional<pikv::Chunk>> wait() override {
      ++tier_.num_waits;
      tier_.wait_gate.pass();
      tier_.sleep();
      pikv::Result<std::optional<pikv::Chunk>> chunk = tier_.read(key_, memory_);
      tier_.read_gate.pass();
      return chunk;
    }

   private:
    FakeTier& tier_;
    const pikv::ChunkKey key_;
    pikv::MemoryResource& memory_;
  };

  void sleep() const {
    if (delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
  }

  [[nodiscard]] pikv::Result<std::optional<pikv::Chunk>> read(const pikv::ChunkKey& key, pikv::MemoryResource& memory) {
    const Fault now = fault;
    switch (now) {
      case Fault::kUnavailable:
        return pikv::Status(pikv::ErrorCode::kUnavailable, "FakeTier: away on purpose");
      case Fault::kIoError:
        return pikv::Status(pikv::ErrorCode::kIoError, "FakeTier: broken on purpose");
      case Fault::kCorruption:
        return pikv::corruption("FakeTier: corrupt on purpose");
      case Fault::kVanishes:
        return std::optional<pikv::Chunk>();
      case Fault::kThrows:
        throw std::bad_alloc();
      default:
        break;
    }
    std::optional<Stored> copy;
    {
      const std::lock_guard lock(mutex_);
      if (const auto stored = stored_.find(key); stored != stored_.end()) copy = stored->second;
    }
    if (!copy.has_value()) return std::optional<pikv::Chunk>();
    if (now == Fault::kWrongTokens) ++copy->tokens.back();
    if (now == Fault::kWrongGeometry) copy->geometry.num_kv_heads *= 2;
    if (now == Fault::kWrongSize) copy->slab.pop_back();
    pikv::MemoryResource& from = now == Fault::kForeignMemory ? pikv::host_memory_resource() : memory;
    pikv::Result<pikv::Buffer> slab =
        pikv::Buffer::allocate(copy->slab.size(), from, pikv::StreamRef::legacy_default());
    if (!slab.ok()) return slab.status();
    std::memcpy(slab->data(), copy->slab.data(), copy->slab.size());
    pikv::ChunkKey told = key;
    if (now == Fault::kWrongKey) told.bytes[31] ^= std::byte{1};
    return std::optional<pikv::Chunk>(
        pikv::Chunk(told, copy->recipe, std::move(copy->tokens), copy->geometry, std::move(*slab), copy->encoding));
  }

  mutable std::mutex mutex_;
  std::unordered_map<pikv::ChunkKey, Stored, pikv::ChunkKeyHash> stored_;
};

}  // namespace test_support
