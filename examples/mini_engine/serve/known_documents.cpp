#include "mini_engine/serve/known_documents.hpp"

#include <algorithm>

#include "mini_engine/pikv_errors.hpp"

namespace mini_engine::serve {

KnownDocuments::KnownDocuments(std::int64_t max_tokens)
    : max_tokens_(max_tokens), finder_(take(pikv::ChunkFinder::create({.window_tokens = kWindowTokens}))) {}

void KnownDocuments::add(const pikv::ChunkKey& key, std::span<const TokenId> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count < kWindowTokens || count > max_tokens_) return;
  const std::int64_t size_before = finder_.size();
  check(finder_.add(key, tokens));
  if (finder_.size() == size_before) return;
  entries_.push_back({key, count});
  num_tokens_ += count;
  while (num_tokens_ > max_tokens_) {
    (void)finder_.remove(entries_.front().key);
    num_tokens_ -= entries_.front().num_tokens;
    entries_.pop_front();
  }
}

std::vector<KnownDocuments::Piece> KnownDocuments::split(std::span<const TokenId> text) const {
  std::vector<Piece> pieces;
  std::size_t done = 0;
  const auto cut_to = [&](std::size_t end, bool is_document) {
    if (end > done) pieces.push_back({text.subspan(done, end - done), is_document});
    done = std::max(done, end);
  };
  for (const pikv::FoundChunk& found : finder_.find(text)) {
    cut_to(static_cast<std::size_t>(found.begin), false);
    cut_to(static_cast<std::size_t>(found.begin + found.num_tokens), true);
  }
  cut_to(text.size(), false);
  return pieces;
}

}  // namespace mini_engine::serve
