#include "rag_bench/trace_workload.hpp"

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "mini_engine/error.hpp"
#include "rag_bench/made_up.hpp"

namespace rag_bench {
namespace {

using mini_engine::Error;
using mini_engine::TokenId;
using mini_engine::serve::PromptSegment;
using mini_engine::serve::Request;
using nlohmann::json;

/// Longer is no prompt's part; what a hostile file says must not become memory.
constexpr std::int64_t kMostTokens = 1 << 20;

/// Calls body(object) for each line. Whatever goes wrong is said with file and line.
void for_each_line(const std::filesystem::path& path, const std::function<void(const json&)>& body) {
  std::ifstream in(path);
  if (!in) throw Error("cannot open " + path.string());
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.empty()) continue;
    try {
      body(json::parse(line));
    } catch (const std::exception& error) {
      throw Error(path.string() + ", line " + std::to_string(number) + ": " + error.what());
    }
  }
  if (in.bad()) throw Error("cannot read " + path.string());
}

int checked_tokens(const json& value) {
  const auto count = value.get<std::int64_t>();
  if (count < 0 || count > kMostTokens) throw Error(std::to_string(count) + " tokens");
  return static_cast<int>(count);
}

/// Numbers are of one space, whatever the kind of part.
std::map<std::int64_t, int> read_lengths(const std::filesystem::path& folder) {
  std::map<std::int64_t, int> lengths;
  for (const auto& [name, field] : {std::pair{"1_sys_prompt.jsonl", "sys_prompt_id"},
                                    std::pair{"2_passages.jsonl", "passage_id"},
                                    std::pair{"3_history.jsonl", "history_id"},
                                    std::pair{"4_user_input.jsonl", "user_input_id"},
                                    std::pair{"5_web_search.jsonl", "web_search_id"}}) {
    for_each_line(folder / name, [&](const json& line) {
      const auto id = line.at(field).get<std::int64_t>();
      if (!lengths.emplace(id, checked_tokens(line.at("token_length"))).second) {
        throw Error("number " + std::to_string(id) + " is taken");
      }
    });
  }
  return lengths;
}

}  // namespace

TraceWorkload::TraceWorkload(const TraceOptions& options) : options_(options) {
  if (options.vocab_size < 1) throw Error("trace: vocabulary is " + std::to_string(options.vocab_size));
  if (options.max_new_tokens < 1) throw Error("trace: new tokens is " + std::to_string(options.max_new_tokens));
  const std::map<std::int64_t, int> lengths = read_lengths(options.folder);
  const std::filesystem::path path = options.folder / "0_trace.jsonl";
  std::map<std::int64_t, Part> used;
  double offset = 0;  // of this recording's times
  for_each_line(path, [&](const json& line) {
    Entry entry{.seconds = std::stod(line.at("timestamp").get<std::string>()),
                .before = {},
                .passages = {},
                .behind = {},
                .num_new_tokens = std::clamp(checked_tokens(line.at("output_length")), 1, options.max_new_tokens)};
    entry.seconds += offset;
    if (!entries_.empty() && entry.seconds < entries_.back().seconds) {
      offset += entries_.back().seconds - entry.seconds;
      entry.seconds = entries_.back().seconds;
    }
    const json& ids = line.at("hash_ids");
    const auto append = [&](const char* field, std::vector<Part>& parts) {
      for (const json& id : ids.at(field)) {
        const auto known = lengths.find(id.get<std::int64_t>());
        if (known == lengths.end()) throw Error(field + (" " + id.dump()) + " has no length");
        if (known->second > 0) parts.push_back({known->first, known->second});
      }
    };
    append("sys_prompt", entry.before);
    append("passages_ids", entry.passages);
    constexpr std::size_t kConstantParts = 2;
    if (!options.as_served && entry.before.size() > kConstantParts) {
      entry.behind.assign(entry.before.begin() + kConstantParts, entry.before.end());
      entry.before.resize(kConstantParts);
    }
    append("history", entry.behind);
    append("web_search", entry.behind);
    append("user_input", entry.behind);
    if (entry.behind.empty()) throw Error("there is nothing behind the passages, not even a question");

    std::int64_t num_tokens = 0;
    for (const auto* parts : {&entry.before, &entry.passages, &entry.behind}) {
      for (const Part& part : *parts) num_tokens += part.num_tokens;
    }
    if (num_tokens > kMostTokens) throw Error("a prompt of " + std::to_string(num_tokens) + " tokens");
    for (const Part& part : entry.passages) {
      used.emplace(part.id, part);
      size_.max_document_tokens = std::max(size_.max_document_tokens, part.num_tokens);
    }
    size_.max_prompt_tokens = std::max(size_.max_prompt_tokens, static_cast<int>(num_tokens));
    size_.max_new_tokens = std::max(size_.max_new_tokens, entry.num_new_tokens);
    entries_.push_back(std::move(entry));
  });
  if (entries_.empty()) throw Error(path.string() + " has no request");
  for (const auto& [id, part] : used) {
    documents_.push_back(part);
    size_.document_tokens += part.num_tokens;
  }
  size_.num_documents = static_cast<std::int64_t>(documents_.size());
}

std::vector<TokenId> TraceWorkload::tokens_of(const Part& part) const {
  return made_up_tokens(generator(options_.seed, 0, static_cast<std::uint64_t>(part.id)), part.num_tokens,
                        options_.vocab_size);
}

std::vector<TokenId> TraceWorkload::text_of(const std::vector<Part>& parts) const {
  std::vector<TokenId> text;
  for (const Part& part : parts) {
    const std::vector<TokenId> tokens = tokens_of(part);
    text.insert(text.end(), tokens.begin(), tokens.end());
  }
  return text;
}

std::vector<TokenId> TraceWorkload::document(std::int64_t index) const {
  return tokens_of(documents_[static_cast<std::size_t>(index)]);
}

Request TraceWorkload::request(std::uint64_t index) const {
  const Entry& entry = entries_[index % entries_.size()];
  Request request;
  const auto add = [&](PromptSegment::Kind kind, std::vector<TokenId> tokens) {
    if (!tokens.empty()) request.segments.push_back({.kind = kind, .tokens = std::move(tokens)});
  };
  add(PromptSegment::Kind::kText, text_of(entry.before));
  for (const Part& passage : entry.passages) add(PromptSegment::Kind::kDocument, tokens_of(passage));
  add(PromptSegment::Kind::kText, text_of(entry.behind));
  request.max_tokens = entry.num_new_tokens;
  return request;
}

std::optional<double> TraceWorkload::arrival(std::uint64_t index) const {
  const double first = entries_.front().seconds;
  const double length = entries_.back().seconds - first;
  return static_cast<double>(index / entries_.size()) * length + entries_[index % entries_.size()].seconds - first;
}

std::string TraceWorkload::description() const {
  return json{{"trace", options_.folder.filename().string()},
              {"requests", entries_.size()},
              {"documents", size_.num_documents},
              {"document_tokens", size_.document_tokens},
              {"max_new_tokens", options_.max_new_tokens},
              {"as_served", options_.as_served},
              {"seed", options_.seed}}
      .dump();
}

}  // namespace rag_bench
