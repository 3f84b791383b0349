#include "rag_demo/corpus.hpp"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <nlohmann/json.hpp>

#include "rag_demo/utf8.hpp"

namespace rag_demo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::uintmax_t kMaxDocumentBytes = std::uintmax_t{1} << 20;
constexpr std::uintmax_t kMaxQuestionFileBytes = std::uintmax_t{64} << 20;
constexpr std::string_view kBlank = " \t\n\v\f\r";

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

[[noreturn]] void fail(const fs::path& file, std::string_view what) {
  throw CorpusError(file.string() + ": " + std::string(what));
}

// The file's text with "\n" line ends and without a byte-order mark.
std::string read_text(const fs::path& file, std::uintmax_t max_bytes) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) fail(file, "is not a regular file");
  const std::uintmax_t size_bytes = fs::file_size(file, error);
  if (error) fail(file, "cannot be read: " + error.message());
  if (size_bytes > max_bytes) {
    fail(file, "has " + std::to_string(size_bytes) + " bytes, more than the " + std::to_string(max_bytes) + " allowed");
  }
  std::ifstream in(file, std::ios::binary);
  std::string bytes(static_cast<std::size_t>(size_bytes), '\0');
  if (!in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) fail(file, "cannot be read");

  if (const auto offset = find_invalid_utf8(bytes)) fail(file, "invalid UTF-8 at byte " + std::to_string(*offset));
  if (const auto offset = bytes.find('\0'); offset != std::string::npos) {
    fail(file, "NUL character at byte " + std::to_string(offset));
  }
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.erase(0, 3);
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == '\r' && i + 1 < bytes.size() && bytes[i + 1] == '\n') continue;
    text.push_back(bytes[i]);
  }
  return text;
}

Document read_document(const fs::path& file) {
  Document document;
  document.id = file.stem().string();
  const std::string text = read_text(file, kMaxDocumentBytes);
  document.text = trim(text);
  if (document.text.empty()) fail(file, "is blank");
  document.title = trim(std::string_view(document.text).substr(0, document.text.find('\n')));
  return document;
}

// One line of questions.jsonl, and how to complain about it.
class QuestionLine {
 public:
  QuestionLine(const fs::path& file, std::size_t line_number, std::string_view text)
      : place_(file.string() + ":" + std::to_string(line_number)) {
    try {
      object_ = Json::parse(text);
    } catch (const Json::parse_error& error) {
      throw CorpusError(place_ + ": not valid JSON near byte " + std::to_string(error.byte) + " of the line");
    }
    if (!object_.is_object()) throw CorpusError(place_ + ": must be a JSON object, is " + object_.type_name());
  }

  [[noreturn]] void fail_field(std::string_view field, std::string_view what) const {
    throw CorpusError(place_ + ": field \"" + std::string(field) + "\" " + std::string(what));
  }

  bool has(const char* field) const { return object_.contains(field); }

  std::string text(const char* field) const { return text_of(get(field), field); }

  std::vector<std::string> texts(const char* field) const {
    const Json& list = get(field);
    if (!list.is_array()) fail_field(field, std::string("must be a list of strings, is ") + list.type_name());
    if (list.empty()) fail_field(field, "must not be empty");
    std::vector<std::string> values;
    for (std::size_t i = 0; i < list.size(); ++i) {
      values.push_back(text_of(list[i], std::string(field) + "[" + std::to_string(i) + "]"));
    }
    return values;
  }

 private:
  const Json& get(const char* field) const {
    const auto found = object_.find(field);
    if (found == object_.end()) fail_field(field, "is missing");
    return *found;
  }

  std::string text_of(const Json& value, const std::string& field) const {
    if (!value.is_string()) fail_field(field, std::string("must be a string, is ") + value.type_name());
    std::string text(trim(value.get_ref<const std::string&>()));
    if (text.empty()) fail_field(field, "must not be blank");
    return text;
  }

  std::string place_;
  Json object_;
};

Question read_question(const QuestionLine& line, const std::unordered_set<std::string>& document_ids) {
  Question question;
  question.id = line.text("id");
  question.question = line.text("question");
  question.answers = line.texts("answers");
  question.documents = line.texts("documents");
  std::unordered_set<std::string_view> listed;
  for (const std::string& id : question.documents) {
    if (!document_ids.contains(id)) line.fail_field("documents", "names \"" + id + "\", which is no document here");
    if (!listed.insert(id).second) line.fail_field("documents", "names \"" + id + "\" twice");
  }
  if (line.has("answer_prefix")) question.answer_prefix = line.text("answer_prefix");
  return question;
}

std::vector<Question> read_questions(const fs::path& file, const std::vector<Document>& documents) {
  std::unordered_set<std::string> document_ids;
  for (const Document& document : documents) document_ids.insert(document.id);

  const std::string text = read_text(file, kMaxQuestionFileBytes);
  std::vector<Question> questions;
  std::unordered_map<std::string, std::size_t> line_of_id;
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line_text = trim(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    ++line_number;
    if (line_text.empty()) continue;
    const QuestionLine line(file, line_number, line_text);
    Question question = read_question(line, document_ids);
    const auto [first, is_new] = line_of_id.try_emplace(question.id, line_number);
    if (!is_new) {
      line.fail_field("id", "\"" + question.id + "\" was already used on line " + std::to_string(first->second));
    }
    questions.push_back(std::move(question));
  }
  return questions;
}

std::vector<fs::path> list_document_files(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) fail(folder, "no such folder");
  if (status.type() == fs::file_type::none) fail(folder, "cannot be read: " + error.message());
  if (!fs::is_directory(status)) fail(folder, "is not a folder");
  std::vector<fs::path> files;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const fs::path& file = entry->path();
    if (file.extension() == ".txt" && file.filename() != "README.txt") files.push_back(file);
  }
  if (error) fail(folder, "cannot be listed: " + error.message());
  if (files.empty()) fail(folder, "holds no documents (files named *.txt)");
  return files;
}

}  // namespace

Corpus load_corpus(const fs::path& folder) {
  Corpus corpus;
  for (const fs::path& file : list_document_files(folder)) corpus.documents.push_back(read_document(file));
  std::ranges::sort(corpus.documents, {}, &Document::id);
  const fs::path question_file = folder / "questions.jsonl";
  // Of the entry itself: a link that leads nowhere is an error, not an absent file.
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(question_file, ignored)))
    corpus.questions = read_questions(question_file, corpus.documents);
  return corpus;
}

}  // namespace rag_demo
