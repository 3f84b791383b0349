#include "lab/data/score.hpp"

#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <unordered_map>

#include "lab/data/json_lines.hpp"
#include "lab/data/tokenizer_fingerprint.hpp"
#include "mini_engine/error.hpp"
#include "rag_demo/answer_metrics.hpp"

namespace lab {
namespace {

using mini_engine::JsonField;

std::string first_line(std::string_view reply) {
  constexpr std::string_view kBlank = " \t\r";
  reply = reply.substr(0, reply.find('\n'));
  const std::size_t begin = reply.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return std::string(reply.substr(begin, reply.find_last_not_of(kBlank) + 1 - begin));
}

/// Tokens may end inside a character; JSON holds whole ones.
std::string as_utf8(const std::string& bytes) {
  const std::string quoted = nlohmann::json(bytes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(quoted).get<std::string>();
}

}  // namespace

AnswerScore score_reply(std::string_view reply, const Case& one) {
  const std::string answer = first_line(reply);
  return {.answer = answer,
          .exact = rag_demo::exact_match(answer, one.answers),
          .f1 = rag_demo::token_f1(answer, one.answers),
          .subspan = rag_demo::contains_answer(answer, one.answers)};
}

ScoreCounts score_results(const std::filesystem::path& results, const CaseFile& cases,
                          const mini_engine::Tokenizer& tokenizer, std::ostream& out) {
  if (tokenizer_fingerprint(tokenizer.data()) != cases.header.tokenizer_fingerprint) {
    throw mini_engine::Error("the cases were prepared with another tokenizer than " + tokenizer.data().source);
  }
  std::unordered_map<std::string, const Case*> by_id;
  for (const Case& one : cases.cases) by_id.emplace(one.id, &one);

  ScoreCounts counts;
  for_each_json_line(results, [&](const JsonField& line, std::string_view text) {
    const std::optional<JsonField> generated = line.find("generated");
    if (!generated) {
      out << text << '\n';
      ++counts.num_passed;
      return;
    }
    const auto found = by_id.find(line["case"].string());
    if (found == by_id.end()) line["case"].fail(mini_engine::in_quotes(line["case"].string()) + " is no case");
    const std::string reply = tokenizer.decode(read_tokens(*generated, cases.header.vocab_size));
    nlohmann::ordered_json scored = nlohmann::ordered_json::parse(text);
    if (found->second->answers.empty()) {
      scored["answer"] = as_utf8(first_line(reply));
    } else {
      const AnswerScore score = score_reply(as_utf8(reply), *found->second);
      scored["answer"] = score.answer;
      scored["em"] = score.exact ? 1 : 0;
      scored["f1"] = score.f1;
      scored["subspan"] = score.subspan ? 1 : 0;
    }
    out << scored << '\n';
    ++counts.num_scored;
  });
  return counts;
}

}  // namespace lab
