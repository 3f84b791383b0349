// Byte-level byte-pair encoding as used by Llama 3 and SmolLM2: special tokens are cut out first, the rest is
// pre-split by the model's pattern, and each piece is merged by rank.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "types.hpp"

namespace mini_engine {

/// The pattern that cuts text before merging.
enum class PreSplit : std::uint8_t {
  kLlama3,  ///< up to three digits together, contractions in any case
  kSmolLm,  ///< each digit alone, then the GPT-2 pattern
};

enum class ChatTemplate : std::uint8_t {
  kNone,         ///< none, or one that this engine does not know
  kChatMl,       ///< SmolLM2: ChatML, with SmolLM2's own system message where a conversation opens without one
  kChatMlPlain,  ///< ChatML without a default system message
  kLlama3,       ///< Llama 3
  kLlama31,      ///< Llama 3.1 and 3.3: always opens with a system message that gives the dates
};

/// Which template a model's Jinja source is, by its markers.
[[nodiscard]] ChatTemplate recognize_chat_template(std::string_view jinja);

/// What a container says about its tokenizer, before any index is built over it.
struct TokenizerData {
  std::vector<std::string> pieces;  ///< [V] in byte-level alphabet for ordinary tokens, literal text for specials
  std::vector<bool> is_special;     ///< [V] matched verbatim in text, never merged into
  std::vector<std::pair<std::string, std::string>> merges;  ///< by rank, in byte-level alphabet
  PreSplit pre_split = PreSplit::kSmolLm;
  ChatTemplate chat_template = ChatTemplate::kNone;
  TokenId bos_id = 0;
  bool adds_bos = false;
  bool ignore_merges = false;  ///< Llama 3: a piece that is itself in the vocabulary is one token
  std::string source;          ///< file, for messages
};

/// Reads a Hugging Face `tokenizer.json` (and `tokenizer_config.json` beside it when present) of a byte-level BPE
/// tokenizer with one of the two pre-splits. Throws Error naming file and field for anything else.
[[nodiscard]] TokenizerData read_tokenizer_json(const std::string& path);

/// Whether special tokens written out in the text ("<|im_end|>") are taken as such. Text from users and documents is
/// encoded with kAsText, so that it cannot forge the structure of the prompt.
enum class SpecialTokens : std::uint8_t { kAsText, kParse };

/// Immutable once built; every const member may be called from several threads.
class Tokenizer {
 public:
  /// Throws Error for empty or duplicate pieces, duplicate merges, merges that name unknown pieces, ordinary pieces
  /// outside the byte alphabet, and a BOS that is added but not in the vocabulary.
  explicit Tokenizer(TokenizerData data);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids of `text` without BOS. Any bytes are accepted; invalid UTF-8 is encoded byte by byte. Bytes that the
  /// vocabulary has no token for are left out before merging, as the reference implementations do. Throws Error beyond
  /// 2 GiB.
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text,
                                            SpecialTokens specials = SpecialTokens::kAsText) const;
  /// The exact bytes of the ids; a token may end inside a UTF-8 character. Throws Error for an id out of range.
  [[nodiscard]] std::string decode(std::span<const TokenId> ids) const;
  /// The id of a special token by its literal text; throws Error when the model has none of that name.
  [[nodiscard]] TokenId special(std::string_view literal) const;
  /// The bytes, in ascending order, that encode() leaves out: none for Llama 3; for SmolLM2 21 that hardly occur in
  /// text (control characters, bytes that UTF-8 never uses, lead bytes of unassigned planes).
  [[nodiscard]] std::string missing_bytes() const;
  [[nodiscard]] const TokenizerData& data() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct ChatMessage {
  std::string_view role;  ///< "system", "user" or "assistant"
  std::string_view content;
};

/// Ids of a conversation in the model's own template, structure as special tokens and contents as plain text, ready for
/// the assistant's turn when `open_assistant_turn`. BOS is included where the template has one. Throws Error for kNone,
/// for a role other than those three, and for a vocabulary that lacks the template's special tokens.
[[nodiscard]] std::vector<TokenId> apply_chat_template(const Tokenizer& tokenizer,
                                                       std::span<const ChatMessage> messages, bool open_assistant_turn);

}  // namespace mini_engine
