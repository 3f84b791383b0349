// Small chunks, keys and a watched memory for tests of the store.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "pikv/store.hpp"

namespace test_support {

/// 16 bytes of KV a token.
inline constexpr pikv::KvGeometry kTinyGeometry{
    .num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .rotary_dim = 2, .dtype = pikv::DType::kFloat32};

[[nodiscard]] constexpr std::int64_t tiny_footprint(std::int64_t num_tokens) {
  return num_tokens * (16 + 4) + pikv::Chunk::kBookkeepingBytes;
}

[[nodiscard]] inline pikv::ChunkKey key_of(std::uint64_t number) {
  pikv::ChunkKey key;
  std::memcpy(key.bytes.data(), &number, sizeof number);
  return key;
}

/// `num_tokens` ids that tell the key.
[[nodiscard]] inline std::vector<pikv::TokenId> tokens_of(std::uint64_t number, std::size_t num_tokens) {
  std::vector<pikv::TokenId> tokens(num_tokens);
  std::iota(tokens.begin(), tokens.end(), static_cast<pikv::TokenId>(number * 1000));
  return tokens;
}

/// The byte that every place of a chunk's slab holds in these tests.
[[nodiscard]] inline std::byte fill_of(const pikv::ChunkKey& key) { return key.bytes[0] ^ std::byte{0x5A}; }

inline void fill(pikv::ChunkWriter& writer, const pikv::ChunkKey& key) {
  const pikv::KvView view = writer.view();
  std::memset(view.k_base, std::to_integer<int>(fill_of(key)), static_cast<std::size_t>(view.num_slots) * 16);
}

[[nodiscard]] inline bool is_filled(const pikv::Chunk& chunk) {
  for (const std::byte byte : chunk.slab()) {
    if (byte != fill_of(chunk.key())) return false;
  }
  return true;
}

/// Inserts, fills and commits; null when the store declines. `*outcome` may be null.
[[nodiscard]] inline pikv::ChunkHandle insert(pikv::Store& store, const pikv::ChunkKey& key,
                                              const std::vector<pikv::TokenId>& tokens,
                                              pikv::InsertOutcome* outcome = nullptr) {
  pikv::Result<pikv::ChunkWriter> writer = store.begin_insert(key, pikv::ChunkRecipe::alone(), tokens);
  if (outcome != nullptr) *outcome = writer.value().outcome();
  if (writer->outcome() == pikv::InsertOutcome::kAlreadyPresent) return writer->existing();
  if (writer->outcome() != pikv::InsertOutcome::kInserted) return nullptr;
  fill(*writer, key);
  return writer->commit().value();
}

/// Host memory that counts what is out, and refuses on demand.
class WatchedMemory final : public pikv::MemoryResource {
 public:
  [[nodiscard]] pikv::MemorySpace space() const noexcept override { return pikv::MemorySpace::kHost; }
  [[nodiscard]] pikv::Result<void*> allocate_async(std::size_t size_bytes, pikv::StreamRef stream) override {
    if (fail_) return pikv::out_of_memory("WatchedMemory: refused on purpose");
    pikv::Result<void*> data = pikv::host_memory_resource().allocate_async(size_bytes, stream);
    if (data.ok()) live_bytes_ += static_cast<std::int64_t>(size_bytes);
    return data;
  }
  void deallocate_async(void* data, std::size_t size_bytes, pikv::StreamRef stream) noexcept override {
    live_bytes_ -= static_cast<std::int64_t>(size_bytes);
    pikv::host_memory_resource().deallocate_async(data, size_bytes, stream);
  }

  void fail(bool on) { fail_ = on; }
  [[nodiscard]] std::int64_t live_bytes() const { return live_bytes_; }

 private:
  std::atomic<bool> fail_ = false;
  std::atomic<std::int64_t> live_bytes_ = 0;
};

}  // namespace test_support
