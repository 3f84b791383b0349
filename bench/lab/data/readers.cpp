#include "lab/data/readers.hpp"

#include <algorithm>
#include <utility>

#include "lab/data/input_file.hpp"
#include "lab/data/json_lines.hpp"

namespace lab {
namespace {

using mini_engine::JsonDocument;
using mini_engine::JsonField;

const std::string& shown_text(const JsonField& field) {
  const std::string& text = field.string();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) field.fail("is blank");
  return text;
}

std::vector<std::string> some_answers(const JsonField& field) {
  std::vector<std::string> answers = read_strings(field);
  if (answers.empty()) field.fail("is empty");
  return answers;
}

/// A passage that one question has twice would be one chunk at two places.
void add_given(const JsonField& field, std::size_t passage, SourceQuestion& question) {
  if (std::ranges::find(question.given, passage) != question.given.end()) field.fail("is there already");
  question.given.push_back(passage);
}

std::string place_id(std::size_t index) { return "q" + std::to_string(index); }

}  // namespace

QuestionSet read_squad(const std::filesystem::path& path) {
  const JsonDocument document(read_input(path), path.string());
  QuestionSet set;
  for (const JsonField& article : JsonField(document)["data"].elements()) {
    for (const JsonField& paragraph : article["paragraphs"].elements()) {
      const std::size_t passage = set.pool.add(shown_text(paragraph["context"]));
      for (const JsonField& qa : paragraph["qas"].elements()) {
        SourceQuestion question{.id = shown_text(qa["id"]),
                                .text = shown_text(qa["question"]),
                                .answers = {},
                                .gold = {passage},
                                .given = {}};
        for (const JsonField& answer : qa["answers"].elements()) {
          question.answers.push_back(shown_text(answer["text"]));
        }
        if (question.answers.empty()) qa["answers"].fail("is empty");
        set.questions.push_back(std::move(question));
      }
    }
  }
  return set;
}

QuestionSet read_nq_open(const std::filesystem::path& path) {
  QuestionSet set;
  for_each_json_line(path, [&](const JsonField& line, std::string_view) {
    SourceQuestion question{.id = place_id(set.questions.size()),
                            .text = shown_text(line["question"]),
                            .answers = some_answers(line["answers"]),
                            .gold = {},
                            .given = {}};
    for (const JsonField& context : line["ctxs"].elements()) {
      if (!context["isgold"].boolean()) continue;
      question.gold.push_back(set.pool.add(with_title(context["title"].string(), shown_text(context["text"]))));
    }
    if (question.gold.empty()) line["ctxs"].fail("has no passage that is gold");
    set.questions.push_back(std::move(question));
  });
  return set;
}

QuestionSet read_musique(const std::filesystem::path& path) {
  const JsonDocument document(read_input(path), path.string());
  QuestionSet set;
  for (const JsonField& record : JsonField::root_of(document).elements()) {
    SourceQuestion question{.id = place_id(set.questions.size()),
                            .text = shown_text(record["question"]),
                            .answers = some_answers(record["answers"]),
                            .gold = {},
                            .given = {}};
    for (const JsonField& context : record["ctxs"].elements()) {
      const std::string text = with_title(context["title"].string(), shown_text(context["text"]));
      add_given(context, set.pool.add(text), question);
    }
    if (question.given.empty()) record["ctxs"].fail("is empty");
    set.questions.push_back(std::move(question));
  }
  return set;
}

QuestionSet read_hotpotqa(const std::filesystem::path& path) {
  const JsonDocument document(read_input(path), path.string());
  QuestionSet set;
  for (const JsonField& record : JsonField::root_of(document).elements()) {
    SourceQuestion question{.id = shown_text(record["id"]),
                            .text = shown_text(record["question"]),
                            .answers = {shown_text(record["answer"])},
                            .gold = {},
                            .given = {}};
    const std::vector<std::string> supporting = read_strings(record["supporting_facts"]);
    const std::vector<std::string> titles = read_strings(record["context"]["title"]);
    const std::vector<JsonField> paragraphs = record["context"]["sentences"].elements();
    if (titles.size() != paragraphs.size() || titles.empty()) {
      record["context"].fail("has " + std::to_string(titles.size()) + " titles and " +
                             std::to_string(paragraphs.size()) + " paragraphs");
    }
    for (std::size_t i = 0; i < titles.size(); ++i) {
      std::string text;
      for (const std::string& sentence : read_strings(paragraphs[i])) text += sentence;  // each with its own space
      const std::size_t passage = set.pool.add(with_title(titles[i], text));
      add_given(paragraphs[i], passage, question);
      if (std::ranges::find(supporting, titles[i]) != supporting.end()) question.gold.push_back(passage);
    }
    if (question.gold.empty()) record["supporting_facts"].fail("names no passage");
    set.questions.push_back(std::move(question));
  }
  return set;
}

}  // namespace lab
