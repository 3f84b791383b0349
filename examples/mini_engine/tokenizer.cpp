#include "mini_engine/tokenizer.hpp"

#include <array>
#include <cstddef>
#include <limits>
#include <unordered_map>

#include "mini_engine/bpe_merge.hpp"
#include "mini_engine/byte_alphabet.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/pre_split.hpp"
#include "mini_engine/special_tokens.hpp"
#include "mini_engine/utf8.hpp"

namespace mini_engine {
namespace {

constexpr TokenId kNoToken = std::numeric_limits<TokenId>::max();

// PieceMerger numbers the tokens of a piece in 31 bits, and one piece may be the whole text.
constexpr std::size_t kMaxTextBytes = std::numeric_limits<std::int32_t>::max();

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerData given);

  void add_pieces();
  void add_merges();
  /// The id of an ordinary piece given in the byte alphabet; throws Error naming `field`.
  TokenId ordinary_id(std::string_view piece, const std::string& field) const;

  void encode_text(std::string_view text, std::vector<TokenId>& ids) const;
  void encode_piece(std::string_view piece, PieceMerger& merger, std::vector<TokenId>& ids) const;

  TokenizerData data;
  std::vector<std::string> bytes_of_id;                        // what each id decodes to
  std::unordered_map<std::string_view, TokenId> ordinary_ids;  // by bytes; views into bytes_of_id
  std::array<TokenId, 256> id_of_byte{};                       // kNoToken where the vocabulary lacks the byte
  SpecialTokenSet specials;
  MergeTable merges;
  PreSplitter pre_splitter;
};

Tokenizer::Impl::Impl(TokenizerData given) : data(std::move(given)), pre_splitter(data.pre_split) {
  if (data.pieces.size() != data.is_special.size()) {
    throw file_error(data.source, "tokenizer",
                     std::to_string(data.pieces.size()) + " pieces but " + std::to_string(data.is_special.size()) +
                         " special flags");
  }
  if (data.pieces.empty()) throw file_error(data.source, "tokenizer", "the vocabulary is empty");
  if (data.pieces.size() >= kNoToken) throw file_error(data.source, "tokenizer", "more pieces than 32-bit ids");
  if (data.adds_bos && data.bos_id >= data.pieces.size()) {
    throw file_error(data.source, "tokenizer",
                     "BOS id " + std::to_string(data.bos_id) + " is outside the vocabulary of " +
                         std::to_string(data.pieces.size()));
  }
  add_pieces();
  add_merges();
}

void Tokenizer::Impl::add_pieces() {
  bytes_of_id.resize(data.pieces.size());  // never resized again: the maps view into it
  ordinary_ids.reserve(data.pieces.size());
  for (std::size_t i = 0; i < data.pieces.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    const std::string& piece = data.pieces[i];
    const auto refuse = [&](std::string_view what) {
      return file_error(data.source, "token " + std::to_string(id), in_quotes(piece) + " " + std::string(what));
    };
    if (piece.empty()) throw refuse("is empty");
    bool is_new = false;
    if (data.is_special[i]) {
      bytes_of_id[i] = piece;
      is_new = specials.add(bytes_of_id[i], id);
    } else {
      std::optional<std::string> bytes = bytes_of_piece(piece);
      if (!bytes) throw refuse("holds a character outside the byte-level alphabet");
      bytes_of_id[i] = std::move(*bytes);
      is_new = ordinary_ids.emplace(bytes_of_id[i], id).second;
    }
    if (!is_new) throw refuse("appears twice");
  }
  for (std::size_t byte = 0; byte < id_of_byte.size(); ++byte) {
    const char text = static_cast<char>(byte);
    const auto found = ordinary_ids.find(std::string_view(&text, 1));
    id_of_byte[byte] = found == ordinary_ids.end() ? kNoToken : found->second;
  }
}

void Tokenizer::Impl::add_merges() {
  merges.reserve(data.merges.size());
  for (std::size_t rank = 0; rank < data.merges.size(); ++rank) {
    const auto& [left, right] = data.merges[rank];
    const std::string field = "merge " + std::to_string(rank);
    const MergeTable::Merge merge{ordinary_id(left, field), ordinary_id(right, field),
                                  ordinary_id(left + right, field)};
    if (!merges.add(merge)) {
      throw file_error(data.source, field, in_quotes(left + " " + right) + " has an earlier rank already");
    }
  }
}

TokenId Tokenizer::Impl::ordinary_id(std::string_view piece, const std::string& field) const {
  const std::optional<std::string> bytes = bytes_of_piece(piece);
  const auto found = bytes ? ordinary_ids.find(*bytes) : ordinary_ids.end();
  if (found == ordinary_ids.end()) {
    throw file_error(data.source, field, in_quotes(piece) + " is not an ordinary piece of the vocabulary");
  }
  return found->second;
}

void Tokenizer::Impl::encode_text(std::string_view text, std::vector<TokenId>& ids) const {
  PieceMerger merger(merges);
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const std::size_t num_valid = valid_utf8_prefix(text);
    pieces.clear();
    pre_splitter.split(text.substr(0, num_valid), pieces);
    for (const std::string_view piece : pieces) encode_piece(piece, merger, ids);
    text.remove_prefix(num_valid);
    // A byte that is no part of a character stands alone, and what follows it is looked at afresh.
    if (!text.empty()) {
      encode_piece(text.substr(0, 1), merger, ids);
      text.remove_prefix(1);
    }
  }
}

void Tokenizer::Impl::encode_piece(std::string_view piece, PieceMerger& merger, std::vector<TokenId>& ids) const {
  if (data.ignore_merges) {
    const auto whole = ordinary_ids.find(piece);
    if (whole != ordinary_ids.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  const std::size_t begin = ids.size();
  for (const char byte : piece) {
    const TokenId id = id_of_byte[static_cast<unsigned char>(byte)];
    if (id != kNoToken) ids.push_back(id);
  }
  merger.merge_tail(ids, begin);
}

Tokenizer::Tokenizer(TokenizerData data) : impl_(std::make_unique<Impl>(std::move(data))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text, SpecialTokens specials) const {
  if (text.size() > kMaxTextBytes) {
    throw Error("text of " + std::to_string(text.size()) + " bytes is longer than the tokenizer's limit of 2 GiB");
  }
  std::vector<TokenId> ids;
  std::size_t begin = 0;
  if (specials == SpecialTokens::kParse) {
    while (const auto match = impl_->specials.find(text, begin)) {
      impl_->encode_text(text.substr(begin, match->begin - begin), ids);
      ids.push_back(match->id);
      begin = match->end;
    }
  }
  impl_->encode_text(text.substr(begin), ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  std::string text;
  for (const TokenId id : ids) {
    if (id >= impl_->bytes_of_id.size()) {
      throw Error("token id " + std::to_string(id) + " is outside the vocabulary of " +
                  std::to_string(impl_->bytes_of_id.size()));
    }
    text += impl_->bytes_of_id[id];
  }
  return text;
}

TokenId Tokenizer::special(std::string_view literal) const {
  const auto id = impl_->specials.id_of(literal);
  if (!id) throw file_error(impl_->data.source, "tokenizer", "no special token " + in_quotes(literal));
  return *id;
}

std::string Tokenizer::missing_bytes() const {
  std::string missing;
  for (std::size_t byte = 0; byte < impl_->id_of_byte.size(); ++byte) {
    if (impl_->id_of_byte[byte] == kNoToken) missing.push_back(static_cast<char>(byte));
  }
  return missing;
}

const TokenizerData& Tokenizer::data() const { return impl_->data; }

}  // namespace mini_engine
