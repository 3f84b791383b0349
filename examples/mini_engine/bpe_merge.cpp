#include "mini_engine/bpe_merge.hpp"

#include <algorithm>

namespace mini_engine {
namespace {

constexpr std::int32_t kNone = -1;
// A node that was joined into its left neighbour. No merge names this id.
constexpr TokenId kGone = 0xFFFFFFFFU;

std::uint64_t pair_key(TokenId left, TokenId right) { return std::uint64_t{left} << 32U | right; }

}  // namespace

void MergeTable::reserve(std::size_t num_merges) {
  rank_of_pair_.reserve(num_merges);
  merges_.reserve(num_merges);
}

bool MergeTable::add(const Merge& merge) {
  const auto rank = static_cast<std::uint32_t>(merges_.size());
  if (!rank_of_pair_.emplace(pair_key(merge.left, merge.right), rank).second) return false;
  merges_.push_back(merge);
  return true;
}

std::uint32_t MergeTable::rank(TokenId left, TokenId right) const {
  const auto found = rank_of_pair_.find(pair_key(left, right));
  return found == rank_of_pair_.end() ? kNoRank : found->second;
}

bool PieceMerger::comes_later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

void PieceMerger::propose(std::int32_t left) {
  if (left == kNone || nodes_[left].next == kNone) return;
  const std::uint32_t rank = table_.rank(nodes_[left].id, nodes_[nodes_[left].next].id);
  if (rank == MergeTable::kNoRank) return;
  heap_.push_back({rank, left});
  std::push_heap(heap_.begin(), heap_.end(), comes_later);
}

void PieceMerger::merge_tail(std::vector<TokenId>& tokens, std::size_t begin) {
  const auto count = static_cast<std::int32_t>(tokens.size() - begin);
  nodes_.clear();
  heap_.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    nodes_.push_back({tokens[begin + static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : kNone});
  }
  for (std::int32_t i = 0; i < count; ++i) propose(i);

  while (!heap_.empty()) {
    const Candidate best = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), comes_later);
    heap_.pop_back();

    // A candidate is stale when one of its two tokens has since been joined with another neighbour.
    const MergeTable::Merge& merge = table_.merge(best.rank);
    Node& left = nodes_[best.left];
    if (left.id != merge.left || left.next == kNone || nodes_[left.next].id != merge.right) continue;

    Node& right = nodes_[left.next];
    left.id = merge.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next != kNone) nodes_[left.next].previous = best.left;
    propose(left.previous);
    propose(best.left);
  }

  std::size_t end = begin;
  for (std::int32_t i = count > 0 ? 0 : kNone; i != kNone; i = nodes_[i].next) tokens[end++] = nodes_[i].id;
  tokens.resize(end);
}

}  // namespace mini_engine
