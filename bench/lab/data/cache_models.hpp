// Caches of passages as far as their hit rates go: what they hold, not the bytes. Both throw out what was used least
// recently once they hold more than their capacity.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <utility>

namespace lab {

/// A run of tokens that is found again as a whole.
struct StreamPart {
  std::int64_t id = 0;
  std::int64_t num_tokens = 0;
};

/// Finds a passage wherever it stands.
class ChunkCache {
 public:
  /// capacity_tokens 0: without bound.
  explicit ChunkCache(std::int64_t capacity_tokens) : capacity_tokens_(capacity_tokens) {}

  /// Looks the parts up one after the other and keeps them. Returns the tokens found; a part that one request has twice
  /// is found the second time.
  std::int64_t serve(std::span<const StreamPart> parts);

 private:
  std::int64_t capacity_tokens_;
  std::int64_t num_tokens_ = 0;
  std::list<StreamPart> parts_;  // most recent first
  std::map<std::int64_t, std::list<StreamPart>::iterator> by_id_;
};

/// Finds a passage behind exactly what stood before it: a tree of parts, as a radix cache keeps it. Each node is
/// charged its own tokens. Using a node uses all above it, so that whatever goes first is a leaf.
class PrefixCache {
 public:
  /// capacity_tokens 0: without bound.
  explicit PrefixCache(std::int64_t capacity_tokens) : capacity_tokens_(capacity_tokens) {}

  /// Returns the tokens found of the parts behind the first `num_leading`, which are looked up and kept but not
  /// counted.
  std::int64_t serve(std::span<const StreamPart> parts, std::size_t num_leading);

 private:
  struct Node {
    std::int64_t parent;  // serial of a node; kRoot at the top
    std::int64_t id;
    std::int64_t serial;
    std::int64_t num_tokens;
  };
  static constexpr std::int64_t kRoot = -1;
  using NodeIt = std::list<Node>::iterator;

  std::int64_t capacity_tokens_;
  std::int64_t num_tokens_ = 0;
  std::int64_t next_serial_ = 0;
  std::list<Node> nodes_;  // most recent first
  std::map<std::pair<std::int64_t, std::int64_t>, NodeIt> by_parent_and_id_;
};

}  // namespace lab
