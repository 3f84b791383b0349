// What GGUF metadata mean for a llama model.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "config.hpp"
#include "gguf_parse.hpp"
#include "tokenizer.hpp"

namespace mini_engine {

/// Reads metadata with their types and complains about them with their places.
class GgufFields {
 public:
  explicit GgufFields(const GgufContents& contents) : contents_(contents) {}

  /// Null when there is none.
  [[nodiscard]] const GgufValue* find(std::string_view key) const;
  /// Throws Error when there is none.
  [[nodiscard]] const GgufValue& require(std::string_view key) const;

  /// Any integer type of the format is accepted for an integer, any of its two float types for a number.
  [[nodiscard]] std::uint64_t unsigned_integer(std::string_view key) const;
  [[nodiscard]] int positive_int(std::string_view key) const;
  [[nodiscard]] double positive_number(std::string_view key) const;
  [[nodiscard]] bool boolean(std::string_view key, bool fallback) const;
  [[nodiscard]] std::string_view string(std::string_view key) const;
  [[nodiscard]] const std::vector<std::string_view>& strings(std::string_view key) const;
  /// Nothing when the key is absent.
  [[nodiscard]] std::optional<TokenId> token_id(std::string_view key, std::size_t vocab_size) const;

  /// Where a string of the metadata stands in the file.
  [[nodiscard]] std::uint64_t offset_of(std::string_view text) const;
  [[noreturn]] void fail(std::string_view key, std::string_view what) const;
  [[noreturn]] void fail(std::string_view field, std::uint64_t offset, std::string_view what) const;

 private:
  const GgufContents& contents_;
};

/// The configuration in `general.*` and `llama.*`, the tensors `rope_freqs.weight` and `output.weight`, and the ids in
/// `tokenizer.ggml.*`. Throws Error for anything missing, mistyped or not supported, unknown keys `llama.*` included:
/// they may change what the model computes.
[[nodiscard]] ModelConfig gguf_config(const GgufContents& contents);

/// The tokenizer in `tokenizer.ggml.*` and `tokenizer.chat_template`. Throws Error for anything but byte-level
/// byte-pair encoding with a pre-split of PreSplit.
[[nodiscard]] TokenizerData gguf_tokenizer(const GgufContents& contents);

}  // namespace mini_engine
