// What the experiments run on: prompts as token ids, so that running them needs no tokenizer.
//
// One JSON object a line. The first is the header:
//   {"kind": "header", "set": "xquad", "tokenizer_fingerprint": "..", "vocab_size": 49152, "seed": 1, "top_k": 5,
//    "num_cases": 300}
// Every other line is a case:
//   {"kind": "case", "set": "xquad", "id": "..", "cluster": "p12", "question_text": "..", "system": [ids],
//    "passages": [{"id": "p12", "gold": true, "tokens": [ids]}, ..], "question": [ids], "served": [2, 0, 1],
//    "earlier": [1, 2, 0], "answers": ["..", ..], "answer_tokens": [ids]}
// Unknown fields are left alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mini_engine/types.hpp"

namespace lab {

struct CaseHeader {
  std::string set;
  std::string tokenizer_fingerprint;  ///< as tokenizer_fingerprint() gives it
  std::size_t vocab_size = 0;
  std::uint64_t seed = 0;
  std::size_t top_k = 0;  ///< passages a case
};

struct CasePassage {
  std::string id;  ///< the same passage has the same id, and tokens, in every case of a file
  bool gold = false;
  std::vector<mini_engine::TokenId> tokens;  ///< never empty
};

/// A prompt is `system`, the passages in some order, `question`. Nothing else stands between them.
struct Case {
  std::string id;
  std::string cluster;  ///< cases of a cluster are no independent samples
  std::string question_text;
  std::vector<mini_engine::TokenId> system;         ///< never empty
  std::vector<CasePassage> passages;                ///< as retrieved, best first; never empty, no id twice
  std::vector<mini_engine::TokenId> question;       ///< up to where the reply begins; never empty
  std::vector<std::size_t> served;                  ///< order of the passages, as indices
  std::vector<std::size_t> earlier;                 ///< another order of the same, in which they were once served
  std::vector<std::string> answers;                 ///< what counts as right; empty for running text
  std::vector<mini_engine::TokenId> answer_tokens;  ///< the first answer, or the running text, as it would go on

  /// Of the prompt.
  [[nodiscard]] std::size_t num_tokens() const;
};

struct CaseFile {
  CaseHeader header;
  std::vector<Case> cases;
};

/// Throws mini_engine::Error naming file, line and field for whatever is not as above: a header that is missing or
/// counts other cases, ids used twice, tokens outside the vocabulary, orders that are none.
[[nodiscard]] CaseFile load_cases(const std::filesystem::path& path);

/// Throws mini_engine::Error when the file cannot be written.
void write_cases(const CaseFile& file, const std::filesystem::path& path);

}  // namespace lab
