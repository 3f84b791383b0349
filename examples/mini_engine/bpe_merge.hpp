// Byte-pair merging: of all adjacent pairs of tokens, the one of lowest rank is joined first, the leftmost among
// equals, until no pair has a rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "types.hpp"

namespace mini_engine {

/// Which pairs join, in which order, into what. Immutable once filled; find() may be called from several threads.
class MergeTable {
 public:
  struct Merge {
    TokenId left, right, merged;
  };

  void reserve(std::size_t num_merges);
  /// Adds the merge of the next higher rank. Returns false, adding nothing, when the pair already has a rank.
  [[nodiscard]] bool add(const Merge& merge);

  /// The rank of a pair, or kNoRank.
  [[nodiscard]] std::uint32_t rank(TokenId left, TokenId right) const;
  [[nodiscard]] const Merge& merge(std::uint32_t rank) const { return merges_[rank]; }

  static constexpr std::uint32_t kNoRank = 0xFFFFFFFFU;

 private:
  std::unordered_map<std::uint64_t, std::uint32_t> rank_of_pair_;
  std::vector<Merge> merges_;
};

/// Merges pieces one after another, reusing its scratch memory. Of n tokens it needs O(n log n) steps. Not thread-safe;
/// make one per thread. The table must outlive it.
class PieceMerger {
 public:
  explicit PieceMerger(const MergeTable& table) : table_(table) {}

  /// Merges tokens [begin, tokens.size()) in place, shortening the vector. At most 2^31 - 1 tokens.
  void merge_tail(std::vector<TokenId>& tokens, std::size_t begin);

 private:
  /// A token of the piece in a doubly linked list by index.
  struct Node {
    TokenId id;
    std::int32_t previous, next;
  };
  struct Candidate {
    std::uint32_t rank;
    std::int32_t left;
  };

  static bool comes_later(const Candidate& a, const Candidate& b);
  /// Enters the pair that starts at `left` into the heap, when there is one and it has a rank.
  void propose(std::int32_t left);

  const MergeTable& table_;
  std::vector<Node> nodes_;
  std::vector<Candidate> heap_;
};

}  // namespace mini_engine
