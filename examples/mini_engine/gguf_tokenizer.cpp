#include <cstring>
#include <string>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf_model.hpp"

namespace mini_engine {
namespace {

// The format's numbers for what a token is.
enum class TokenType : std::int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

std::string element(std::string_view key, std::size_t index) {
  return std::string(key) + "[" + std::to_string(index) + "]";
}

void read_pieces(const GgufFields& fields, TokenizerData& data) {
  constexpr std::string_view kKey = "tokenizer.ggml.tokens";
  const auto& tokens = fields.strings(kKey);
  data.pieces.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].empty()) fields.fail(element(kKey, i), fields.offset_of(tokens[i]), "token is empty");
    data.pieces.emplace_back(tokens[i]);
  }
}

void read_types(const GgufFields& fields, TokenizerData& data) {
  constexpr std::string_view kKey = "tokenizer.ggml.token_type";
  const GgufValue& types = fields.require(kKey);
  const bool holds_integers = types.element_type == GgufType::kInt32 || types.element_type == GgufType::kUint32;
  if (types.type != GgufType::kArray || !holds_integers) fields.fail(kKey, "is not an array of 32-bit integers");
  const std::size_t count = types.bytes.size() / sizeof(std::int32_t);
  if (count != data.pieces.size()) {
    fields.fail(kKey, std::to_string(count) + " types for " + std::to_string(data.pieces.size()) + " tokens");
  }
  data.is_special.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::int32_t type = 0;
    std::memcpy(&type, types.bytes.data() + i * sizeof(type), sizeof(type));
    const std::uint64_t offset =
        fields.offset_of({reinterpret_cast<const char*>(types.bytes.data()), 0}) + i * sizeof(type);
    switch (static_cast<TokenType>(type)) {
      case TokenType::kNormal:
      case TokenType::kUnused:
        break;
      case TokenType::kUnknown:
      case TokenType::kControl:
      case TokenType::kUserDefined:
        data.is_special[i] = true;
        break;
      case TokenType::kByte:
        fields.fail(element(kKey, i), offset, "byte tokens like '<0x0A>' have no place in a byte-level vocabulary");
      default:
        fields.fail(element(kKey, i), offset, "unknown token type " + std::to_string(type));
    }
  }
}

void read_merges(const GgufFields& fields, TokenizerData& data) {
  constexpr std::string_view kKey = "tokenizer.ggml.merges";
  const auto& merges = fields.strings(kKey);
  data.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::size_t space = merges[i].find(' ');
    const bool is_pair = space != std::string_view::npos && space > 0 && space + 1 < merges[i].size() &&
                         merges[i].find(' ', space + 1) == std::string_view::npos;
    if (!is_pair) {
      fields.fail(element(kKey, i), fields.offset_of(merges[i]), "is not two pieces with one space between them");
    }
    data.merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
  }
}

ChatTemplate recognise_template(const GgufFields& fields) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  if (fields.find(kKey) == nullptr) return ChatTemplate::kNone;
  return recognize_chat_template(fields.string(kKey));
}

}  // namespace

TokenizerData gguf_tokenizer(const GgufContents& contents) {
  const GgufFields fields(contents);
  if (const auto model = fields.string("tokenizer.ggml.model"); model != "gpt2") {
    fields.fail("tokenizer.ggml.model", in_quotes(model) + " is not supported, only 'gpt2' is");
  }
  TokenizerData data;
  data.source = contents.file;
  const auto pre = fields.string("tokenizer.ggml.pre");
  if (pre == "llama-bpe" || pre == "llama3") {
    data.pre_split = PreSplit::kLlama3;
    data.ignore_merges = true;
  } else if (pre == "smollm") {
    data.pre_split = PreSplit::kSmolLm;
  } else {
    fields.fail("tokenizer.ggml.pre", in_quotes(pre) + " is not supported, only smollm, llama-bpe and llama3 are");
  }
  read_pieces(fields, data);
  read_types(fields, data);
  read_merges(fields, data);
  data.chat_template = recognise_template(fields);
  // Files that leave the flag out mean what the pre-split's own models do.
  data.adds_bos = fields.boolean("tokenizer.ggml.add_bos_token", data.pre_split == PreSplit::kLlama3);
  if (data.adds_bos) static_cast<void>(fields.require("tokenizer.ggml.bos_token_id"));
  data.bos_id = fields.token_id("tokenizer.ggml.bos_token_id", data.pieces.size()).value_or(0);
  return data;
}

}  // namespace mini_engine
