// Finds known chunks inside a raw token stream whose documents nobody marked.
//
// A rolling polynomial hash of a fixed window runs over the prompt; its base is secret and random, so collisions cannot
// be crafted, and every candidate is compared token by token before it is reported.
//
//   pikv::Result<pikv::ChunkFinder> finder = pikv::ChunkFinder::create({.window_tokens = 16});
//   PIKV_TRY(finder->add(key, tokens));
//   for (const pikv::FoundChunk& found : finder->find(prompt)) ...
//
// Thread-safety: find() and size() may run together; add() and remove() need exclusive access.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pikv/chunk_key.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// Tokens [begin, begin + num_tokens) of the prompt are exactly the chunk's tokens.
struct FoundChunk {
  ChunkKey key{};
  std::int64_t begin = 0;
  std::int64_t num_tokens = 0;
  friend bool operator==(const FoundChunk&, const FoundChunk&) = default;
};

struct FinderOptions {
  std::int32_t window_tokens = 16;  ///< chunks shorter than this cannot be added
  std::uint64_t seed = 0;           ///< 0: a random secret base; anything else fixes it, for tests
};

class ChunkFinder {
 public:
  /// kInvalidArgument for a window outside [1, 4096]; kUnavailable when the system gives no random bytes.
  [[nodiscard]] static PIKV_API Result<ChunkFinder> create(const FinderOptions& options = {});
  PIKV_API ~ChunkFinder();
  PIKV_API ChunkFinder(ChunkFinder&&) noexcept;
  PIKV_API ChunkFinder& operator=(ChunkFinder&&) noexcept;

  /// Makes a chunk findable; tokens are copied. Adding a key again is success when the tokens are the same. Costs a few
  /// nanoseconds a token, and as much for each chunk that begins with the same window.
  /// kInvalidArgument for fewer tokens than the window or 2^31 and more, or other tokens under a known key;
  /// kOutOfMemory, which leaves the finder as it was.
  [[nodiscard]] PIKV_API Status add(const ChunkKey& key, std::span<const TokenId> tokens);
  /// True when the key was there.
  PIKV_API bool remove(const ChunkKey& key);

  /// Occurrences from left to right that do not overlap: at each place the longest chunk that matches there, then on
  /// behind its end. Of several chunks with the very same tokens, any one. Costs a few nanoseconds a token; where
  /// chunks begin with the window at hand, the logarithm of the longest one's length times as much, and never more,
  /// also on adversarially repetitive streams.
  [[nodiscard]] PIKV_API std::vector<FoundChunk> find(std::span<const TokenId> prompt) const;

  [[nodiscard]] PIKV_API std::int64_t size() const noexcept;

 private:
  struct Impl;
  explicit ChunkFinder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace v0
}  // namespace pikv
