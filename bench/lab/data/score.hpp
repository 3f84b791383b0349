// Scores of generated answers, added to the lines of results.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>
#include <string_view>

#include "lab/data/cases.hpp"
#include "mini_engine/tokenizer.hpp"

namespace lab {

struct AnswerScore {
  std::string answer;  ///< the first line of the reply, trimmed
  bool exact = false;
  double f1 = 0;
  bool subspan = false;  ///< an accepted answer's words occur in it
};

/// As SQuAD scores, the best over the case's answers. Requires: the case has answers.
[[nodiscard]] AnswerScore score_reply(std::string_view reply, const Case& one);

struct ScoreCounts {
  std::size_t num_scored = 0;
  std::size_t num_passed = 0;  ///< lines that nothing was added to
};

/// Copies the JSON lines of `results` to `out`. A line with "generated" (ids) gets "answer", "em", "f1" and "subspan",
/// for the case that "case" names; where that has no answers, only "answer". Every other line is copied byte by byte.
/// Throws mini_engine::Error naming file, line and field for malformed JSON, a case that is unknown and ids outside the
/// vocabulary, and when the tokenizer is not the one of the cases.
ScoreCounts score_results(const std::filesystem::path& results, const CaseFile& cases,
                          const mini_engine::Tokenizer& tokenizer, std::ostream& out);

}  // namespace lab
