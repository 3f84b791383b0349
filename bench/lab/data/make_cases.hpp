// From questions or a text to cases.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/data/question_set.hpp"
#include "mini_engine/tokenizer.hpp"

namespace lab {

struct CaseOptions {
  std::size_t num_cases = 0;  ///< 0: as many as there are
  std::size_t top_k = 0;      ///< passages to retrieve, where they do not come with the question
  bool with_gold = false;     ///< a gold passage that retrieval misses takes the last one's place
  std::uint64_t seed = 1;
  std::size_t max_tokens = 0;     ///< of the prompt and room for an answer
  std::size_t answer_tokens = 0;  ///< that room
};

struct MadeCases {
  std::vector<Case> cases;
  std::size_t num_too_long = 0;  ///< left out
  /// Cases with a gold passage at that rank or before, of those whose data set names one, before gold is forced in.
  std::vector<std::size_t> num_found;
  std::size_t num_with_gold = 0;  ///< cases whose data set names a gold passage
};

/// Questions in an order drawn from the seed, so that fewer are the first of more. A passage has the same tokens in all
/// cases: it is encoded alone. Where passages come with the question they are ranked as given; else by BM25 over all.
/// A case's cluster is its gold passage where passages are retrieved, else itself. served and earlier are drawn from
/// the seed and differ. Requires: top_k at least 1, unless every question has its passages.
[[nodiscard]] MadeCases make_question_cases(const QuestionSet& set, const mini_engine::Tokenizer& tokenizer,
                                            const CaseOptions& options);

struct WindowOptions {
  std::size_t num_cases = 0;  ///< 0: as many as there are
  std::size_t num_blocks = 8;
  std::size_t block_tokens = 128;
  std::size_t question_tokens = 16;
  std::size_t answer_tokens = 128;
  std::uint64_t seed = 1;
};

/// Windows of a text, drawn from the seed, in the order of the text: blocks of tokens as passages, then the question,
/// then what follows. Order matters to a text, so served is as it stands there; earlier is drawn from the seed and
/// differs from it where there are two blocks or more. Each begins with the tokenizer's BOS. Throws mini_engine::Error
/// for a text shorter than a window.
[[nodiscard]] std::vector<Case> make_window_cases(const std::string& text, const mini_engine::Tokenizer& tokenizer,
                                                  const WindowOptions& options);

}  // namespace lab
