// Data sets in the formats in which they are published. Every reader throws mini_engine::Error naming file, record and
// field for what is missing, of another type or blank; fields that are not named here are left alone.
#pragma once

#include <filesystem>
#include <string>

#include "lab/data/question_set.hpp"

namespace lab {

/// SQuAD v1.1 and XQuAD: {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text"}]}]}]}]}.
/// Passages are the contexts; gold is a question's own.
[[nodiscard]] QuestionSet read_squad(const std::filesystem::path& path);

/// NQ-open with its oracle passages, as lost-in-the-middle publishes it: a line each
/// {"question", "answers": [..], "ctxs": [{"title", "text", "isgold"}]}. Passages are those marked as gold, of all
/// questions together. Ids are q0, q1, .. by line.
[[nodiscard]] QuestionSet read_nq_open(const std::filesystem::path& path);

/// MuSiQue as CacheBlend's inputs/musique_s.json: [{"question", "answers": [..], "ctxs": [{"title", "text"}]}]. Each
/// question comes with its passages; which of them are gold the file does not say. Ids are q0, q1, .. by place.
[[nodiscard]] QuestionSet read_musique(const std::filesystem::path& path);

/// HotpotQA's distractor setting as records: [{"id", "question", "answer", "supporting_facts": [titles],
/// "context": {"title": [..], "sentences": [[..], ..]}}]. Each question comes with its passages; gold are those whose
/// title is a supporting fact.
[[nodiscard]] QuestionSet read_hotpotqa(const std::filesystem::path& path);

/// UTF-8 text without carriage returns. Of a file of Project Gutenberg what stands between the lines
/// "*** START OF .." and "*** END OF ..", or "End of the Project Gutenberg ..". Throws for invalid UTF-8, with its
/// offset, and for a text that is blank.
[[nodiscard]] std::string read_plain_text(const std::filesystem::path& path);

}  // namespace lab
