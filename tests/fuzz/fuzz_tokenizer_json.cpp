// Any bytes as tokenizer.json: either an Error, or a tokenizer that encodes and decodes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mini_engine/error.hpp"
#include "mini_engine/tokenizer.hpp"
#include "mini_engine/tokenizer_json.hpp"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  using namespace mini_engine;
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  try {
    TokenizerData data = parse_tokenizer_json(text, "tokenizer.json");
    parse_tokenizer_config(text, "tokenizer_config.json", data);
    const Tokenizer tokenizer(std::move(data));
    // The input itself is as good a text as any.
    for (const SpecialTokens specials : {SpecialTokens::kAsText, SpecialTokens::kParse}) {
      const std::string decoded = tokenizer.decode(tokenizer.encode(text, specials));
      require(decoded.size() <= size);
      if (tokenizer.missing_bytes().empty()) require(decoded == text);
    }
  } catch (const Error&) {
  }
  return 0;
}
