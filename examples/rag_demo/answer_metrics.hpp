// Scoring a reply against the answers that count as right, as the SQuAD evaluation does.
//
// Every function is pure and thread-safe. `references` must hold at least one answer, else std::invalid_argument.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace rag_demo {

/// Lower-cases, deletes ASCII punctuation, drops the words "a", "an" and "the", and joins what is left with single
/// spaces. Letters beyond ASCII keep their case and Unicode punctuation stays.
[[nodiscard]] std::string normalize_answer(std::string_view answer);

/// Whether the normalised reply is one of the normalised references.
[[nodiscard]] bool exact_match(std::string_view reply, std::span<const std::string> references);

/// The best, over the references, harmonic mean of precision and recall of the normalised words, counted with
/// repeats. In [0, 1]. When either side has no words left, 1 if both have none and else 0.
[[nodiscard]] double token_f1(std::string_view reply, std::span<const std::string> references);

/// Whether the words of a normalised reference occur in the reply, in one run: what is fair to a model that answers in
/// whole sentences. A reference without words occurs in no reply.
[[nodiscard]] bool contains_answer(std::string_view reply, std::span<const std::string> references);

}  // namespace rag_demo
