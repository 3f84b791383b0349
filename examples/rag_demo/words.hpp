// Cutting text into the words that retrieval compares.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rag_demo {

enum class StopWords : std::uint8_t {
  kKeep,  ///< every word counts
  kDrop,  ///< a short list of English function words is left out
};

/// Words of `text` in order, repeats included. A word is a run of ASCII letters and digits, lower-cased, and of
/// non-ASCII characters, kept as they are; everything else separates, as do the no-break space and Unicode's general
/// punctuation (dashes, curly quotes), which would otherwise stick to words. Any bytes are accepted. Thread-safe.
[[nodiscard]] std::vector<std::string> split_words(std::string_view text, StopWords stop_words);

}  // namespace rag_demo
