// What a store has been charged, and a chunk as it lies in memory. Both live as long as the last handle, which may be
// longer than the store.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "pikv/tier.hpp"

namespace pikv::detail {

/// Bytes charged against a capacity. Thread-safe; charges are added under the index's lock alone, so that a check
/// against the capacity holds until the charge, and are taken off by whoever drops the last handle.
class MemoryAccount {
 public:
  [[nodiscard]] std::int64_t used_bytes() const noexcept { return used_bytes_.load(); }
  /// Of used_bytes(), in chunks that no look-up can find any more.
  [[nodiscard]] std::int64_t leftover_bytes() const noexcept { return leftover_bytes_.load(); }

  void charge(std::int64_t bytes) noexcept { used_bytes_ += bytes; }
  void release(std::int64_t bytes) noexcept { used_bytes_ -= bytes; }
  void add_leftover(std::int64_t bytes) noexcept { leftover_bytes_ += bytes; }
  void remove_leftover(std::int64_t bytes) noexcept { leftover_bytes_ -= bytes; }

 private:
  std::atomic<std::int64_t> used_bytes_ = 0;
  std::atomic<std::int64_t> leftover_bytes_ = 0;
};

/// A charge that is taken off when it goes.
class Charge {
 public:
  Charge(std::shared_ptr<MemoryAccount> account, std::int64_t bytes) noexcept
      : account_(std::move(account)), bytes_(bytes) {}
  Charge(Charge&& other) noexcept : account_(std::move(other.account_)), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&&) = delete;
  ~Charge() {
    if (account_ != nullptr) account_->release(bytes_);
  }
  [[nodiscard]] MemoryAccount& account() const noexcept { return *account_; }
  /// The charge stays when this goes; somebody else takes it off.
  void keep() noexcept { bytes_ = 0; }

 private:
  std::shared_ptr<MemoryAccount> account_;
  std::int64_t bytes_;
};

/// A chunk with everything that has to outlive it. Members go in reverse order: the slab is freed before its charge is
/// taken off, and the resource it goes back to goes last.
class StoredChunk {
 public:
  StoredChunk(std::shared_ptr<MemoryResource> resource, Charge charge, Chunk chunk) noexcept
      : resource_(std::move(resource)),
        charge_(std::move(charge)),
        leftover_(charge_.account()),
        chunk_(std::move(chunk)) {}

  [[nodiscard]] const Chunk& chunk() const noexcept { return chunk_; }
  [[nodiscard]] Chunk& unpublished() noexcept { return chunk_; }
  /// No look-up finds the chunk from now on. Called once, by whoever takes it out of the index.
  void set_leftover() noexcept { leftover_.set(chunk_.footprint_bytes()); }

 private:
  class Leftover {
   public:
    explicit Leftover(MemoryAccount& account) noexcept : account_(account) {}
    Leftover(const Leftover&) = delete;
    Leftover& operator=(const Leftover&) = delete;
    ~Leftover() { account_.remove_leftover(bytes_); }
    void set(std::int64_t bytes) noexcept {
      bytes_ = bytes;
      account_.add_leftover(bytes);
    }

   private:
    MemoryAccount& account_;
    std::int64_t bytes_ = 0;
  };

  std::shared_ptr<MemoryResource> resource_;
  Charge charge_;
  Leftover leftover_;
  Chunk chunk_;
};

using StoredChunkPtr = std::shared_ptr<StoredChunk>;

/// A pin on the chunk.
[[nodiscard]] inline ChunkHandle handle_of(StoredChunkPtr stored) noexcept {
  const Chunk* chunk = stored == nullptr ? nullptr : &stored->chunk();
  return ChunkHandle(std::move(stored), chunk);
}

}  // namespace pikv::detail
