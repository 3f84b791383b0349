#include "lab/data/cases.hpp"

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "lab/data/json_lines.hpp"
#include "mini_engine/error.hpp"

namespace lab {
namespace {

using mini_engine::Error;
using mini_engine::JsonField;
using mini_engine::TokenId;

constexpr std::size_t kMostTokenIds = std::size_t{1} << 32U;

std::vector<TokenId> some_tokens(const JsonField& field, std::size_t vocab_size) {
  std::vector<TokenId> tokens = read_tokens(field, vocab_size);
  if (tokens.empty()) field.fail("is empty");
  return tokens;
}

std::vector<std::size_t> read_order(const JsonField& field, std::size_t num_passages) {
  std::vector<std::size_t> order;
  std::vector<bool> seen(num_passages);
  for (const JsonField& element : field.elements()) {
    const std::size_t index = element.index_below(num_passages);
    if (seen[index]) element.fail("passage " + std::to_string(index) + " is there already");
    seen[index] = true;
    order.push_back(index);
  }
  if (order.size() != num_passages) {
    field.fail("has " + std::to_string(order.size()) + " of " + std::to_string(num_passages) + " passages");
  }
  return order;
}

std::uint64_t read_count(const JsonField& field) { return field.index_below(kMostTokenIds); }

CaseHeader read_header(const JsonField& line) {
  CaseHeader header{.set = line["set"].string(),
                    .tokenizer_fingerprint = line["tokenizer_fingerprint"].string(),
                    .vocab_size = read_count(line["vocab_size"]),
                    .seed = read_count(line["seed"]),
                    .top_k = read_count(line["top_k"])};
  if (header.vocab_size == 0) line["vocab_size"].fail("is 0");
  return header;
}

Case read_case(const JsonField& line, const CaseHeader& header) {
  if (line["set"].string() != header.set)
    line["set"].fail("is not the header's, " + mini_engine::in_quotes(header.set));
  Case result{.id = line["id"].string(),
              .cluster = line["cluster"].string(),
              .question_text = line["question_text"].string(),
              .system = some_tokens(line["system"], header.vocab_size),
              .passages = {},
              .question = some_tokens(line["question"], header.vocab_size),
              .served = {},
              .earlier = {},
              .answers = read_strings(line["answers"]),
              .answer_tokens = read_tokens(line["answer_tokens"], header.vocab_size)};
  std::unordered_set<std::string> ids;
  for (const JsonField& passage : line["passages"].elements()) {
    result.passages.push_back({.id = passage["id"].string(),
                               .gold = passage["gold"].boolean(),
                               .tokens = some_tokens(passage["tokens"], header.vocab_size)});
    const std::string& id = result.passages.back().id;
    if (!ids.insert(id).second) passage["id"].fail(mini_engine::in_quotes(id) + " is there already");
  }
  if (result.passages.empty()) line["passages"].fail("is empty");
  result.served = read_order(line["served"], result.passages.size());
  result.earlier = read_order(line["earlier"], result.passages.size());
  return result;
}

nlohmann::ordered_json to_json(const Case& one, const std::string& set) {
  nlohmann::ordered_json passages = nlohmann::ordered_json::array();
  for (const CasePassage& passage : one.passages) {
    passages.push_back({{"id", passage.id}, {"gold", passage.gold}, {"tokens", passage.tokens}});
  }
  return {{"kind", "case"},
          {"set", set},
          {"id", one.id},
          {"cluster", one.cluster},
          {"question_text", one.question_text},
          {"system", one.system},
          {"passages", std::move(passages)},
          {"question", one.question},
          {"served", one.served},
          {"earlier", one.earlier},
          {"answers", one.answers},
          {"answer_tokens", one.answer_tokens}};
}

}  // namespace

std::size_t Case::num_tokens() const {
  std::size_t count = system.size() + question.size();
  for (const CasePassage& passage : passages) count += passage.tokens.size();
  return count;
}

CaseFile load_cases(const std::filesystem::path& path) {
  std::optional<CaseHeader> header;
  std::size_t num_cases = 0;
  std::vector<Case> cases;
  std::unordered_set<std::string> ids;
  for_each_json_line(path, [&](const JsonField& line, std::string_view) {
    const JsonField kind = line["kind"];
    if (!header) {
      if (kind.string() != "header")
        kind.fail("is " + mini_engine::in_quotes(kind.string()) + ", a header comes first");
      header = read_header(line);
      num_cases = read_count(line["num_cases"]);
      return;
    }
    if (kind.string() != "case") kind.fail("is " + mini_engine::in_quotes(kind.string()) + ", not 'case'");
    cases.push_back(read_case(line, *header));
    if (!ids.insert(cases.back().id).second) {
      line["id"].fail(mini_engine::in_quotes(cases.back().id) + " is there already");
    }
  });
  if (!header) throw Error(path.string() + ": has no header");
  if (cases.size() != num_cases) {
    throw mini_engine::file_error(path.string(), "num_cases",
                                  std::to_string(num_cases) + ", there are " + std::to_string(cases.size()));
  }
  return {*std::move(header), std::move(cases)};
}

void write_cases(const CaseFile& file, const std::filesystem::path& path) {
  std::ofstream out(path);
  const CaseHeader& header = file.header;
  out << nlohmann::ordered_json{{"kind", "header"},
                                {"set", header.set},
                                {"tokenizer_fingerprint", header.tokenizer_fingerprint},
                                {"vocab_size", header.vocab_size},
                                {"seed", header.seed},
                                {"top_k", header.top_k},
                                {"num_cases", file.cases.size()}}
      << '\n';
  for (const Case& one : file.cases) out << to_json(one, header.set) << '\n';
  out.close();
  if (!out) throw Error(path.string() + ": cannot be written");
}

}  // namespace lab
