// A folder of text documents and, beside them, the questions they answer.
//
//   handbook/007-gannet-stack.txt    one document; its id is "007-gannet-stack", its title the first line
//   handbook/questions.jsonl         optional; one question a line
//
// A line of questions.jsonl is an object with the fields
//   id             string, unique in the file
//   question       string
//   answers        strings, at least one: what counts as right
//   documents      ids, at least one: where the answer is found
//   answer_prefix  optional string: how a reply may begin, for small models that complete better than they answer
// Other fields are left alone, and so are empty lines.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace rag_demo {

/// A folder or a file in it that cannot be used. The message names the file, the line or byte, the field and what is
/// wrong with it.
class CorpusError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Document {
  std::string id;     ///< file name without ".txt"
  std::string title;  ///< the first line, trimmed
  std::string text;   ///< the whole file including its title; UTF-8, "\n" line ends, no blank ends
};

struct Question {
  std::string id;
  std::string question;
  std::vector<std::string> answers;    ///< never empty
  std::vector<std::string> documents;  ///< ids that exist in the corpus, none twice, never empty
  std::string answer_prefix;           ///< may be empty
};

struct Corpus {
  std::vector<Document> documents;  ///< in the order of their ids, bytewise; never empty
  std::vector<Question> questions;  ///< in the order of the file; empty when the folder has no questions.jsonl
};

/// Reads every `*.txt` directly in `folder`, except README.txt, and `questions.jsonl` when there is one. A document
/// holds 1 byte to 1 MiB of UTF-8 without NUL; a byte-order mark and "\r\n" are taken away. Throws CorpusError for
/// everything else: a folder that is missing, not a folder or without documents, an unreadable, blank or oversized
/// file, invalid UTF-8, malformed JSON, a field that is missing, mistyped or blank, a question id used twice, or a
/// document id that is unknown or listed twice. Calls for different folders may run together.
[[nodiscard]] Corpus load_corpus(const std::filesystem::path& folder);

}  // namespace rag_demo
