#define PCRE2_CODE_UNIT_WIDTH 8
#include "mini_engine/pre_split.hpp"

#include <pcre2.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <string>

#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

// White space by Unicode's property of that name. PCRE2's \s differs: it still counts U+180E.
#define MINI_ENGINE_SPACE \
  R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"

constexpr const char* kLlama3Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+)"
    R"(|\p{N}{1,3})"
    R"(| ?[^)" MINI_ENGINE_SPACE R"(\p{L}\p{N}]+[\r\n]*)"
    "|[" MINI_ENGINE_SPACE R"(]*[\r\n]+)"
    "|[" MINI_ENGINE_SPACE "]+(?![^" MINI_ENGINE_SPACE
    "])"
    "|[" MINI_ENGINE_SPACE "]+";

// The reference cuts in two passes: first around every digit, then each part by the GPT-2 pattern. One pass does the
// same when a digit ends the look-ahead as the end of a part would.
constexpr const char* kSmolLmPattern = R"(\p{N})"
                                       "|'s|'t|'re|'ve|'m|'ll|'d"
                                       R"(| ?\p{L}+)"
                                       R"(| ?[^)" MINI_ENGINE_SPACE R"(\p{L}\p{N}]+)"
                                       "|[" MINI_ENGINE_SPACE "]+(?![^" MINI_ENGINE_SPACE R"(\p{N}]))"
                                       "|[" MINI_ENGINE_SPACE "]+";

#undef MINI_ENGINE_SPACE

template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Code = std::unique_ptr<pcre2_code, FreeWith<pcre2_code_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, FreeWith<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, FreeWith<pcre2_match_data_free>>;

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct PreSplitter::Impl {
  Code code;
  MatchContext context;
};

PreSplitter::PreSplitter(PreSplit pattern) : impl_(std::make_unique<Impl>()) {
  const char* text = pattern == PreSplit::kLlama3 ? kLlama3Pattern : kSmolLmPattern;
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  // Anchored, because every character starts some piece: a match that began later would have skipped text.
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &error_offset, nullptr));
  if (!impl_->code) throw Error("tokenizer pattern: PCRE2 refuses it: " + pcre2_message(error));
  // Where generated code is not allowed this fails, and matching goes on in the interpreter.
  (void)pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
  impl_->context.reset(pcre2_match_context_create(nullptr));
  if (!impl_->context) throw std::bad_alloc();
  // The patterns backtrack at most once over a run of white space, so long texts need no limit against blow-up.
  pcre2_set_match_limit(impl_->context.get(), std::numeric_limits<std::uint32_t>::max());
}

PreSplitter::~PreSplitter() = default;

void PreSplitter::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const MatchData match(pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  if (!match) throw std::bad_alloc();
  for (std::size_t begin = 0; begin < text.size();) {
    const int result = pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
                                   PCRE2_NO_UTF_CHECK, match.get(), impl_->context.get());
    if (result < 0) {
      throw Error("tokenizer pattern: PCRE2 failed at byte " + std::to_string(begin) +
                  " of the text: " + pcre2_message(result));
    }
    const std::size_t end = pcre2_get_ovector_pointer(match.get())[1];
    pieces.push_back(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace mini_engine
