// Documents that were sent as such, to be found again in text that says nothing of them.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "mini_engine/types.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine::serve {

/// Remembers the last documents, up to a number of tokens. One thread at a time.
class KnownDocuments {
 public:
  explicit KnownDocuments(std::int64_t max_tokens);

  /// Documents shorter than the finder's window, or longer than all there is room for, are not remembered.
  void add(const pikv::ChunkKey& key, std::span<const TokenId> tokens);

  /// A stretch of text; documents are whole.
  struct Piece {
    std::span<const TokenId> tokens;
    bool is_document = false;
  };
  /// The text in order, cut where documents begin and end.
  [[nodiscard]] std::vector<Piece> split(std::span<const TokenId> text) const;

 private:
  struct Entry {
    pikv::ChunkKey key;
    std::int64_t num_tokens;
  };
  static constexpr std::int32_t kWindowTokens = 16;

  std::int64_t max_tokens_;
  std::int64_t num_tokens_ = 0;
  std::deque<Entry> entries_;  // oldest first
  pikv::ChunkFinder finder_;
};

}  // namespace mini_engine::serve
