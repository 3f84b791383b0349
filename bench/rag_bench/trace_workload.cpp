#include "rag_bench/trace_workload.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "mini_engine/error.hpp"
#include "rag_bench/made_up.hpp"
#include "rag_bench/trace_file.hpp"

namespace rag_bench {
namespace {

using mini_engine::Error;
using mini_engine::TokenId;
using mini_engine::serve::PromptSegment;
using mini_engine::serve::Request;
using nlohmann::json;

}  // namespace

TraceWorkload::TraceWorkload(const TraceOptions& options) : options_(options) {
  if (options.vocab_size < 1) throw Error("trace: vocabulary is " + std::to_string(options.vocab_size));
  if (options.max_new_tokens < 1) throw Error("trace: new tokens is " + std::to_string(options.max_new_tokens));
  std::map<std::int64_t, Part> used;
  double offset = 0;  // of this recording's times
  for_each_trace_entry(options.folder, [&](TraceEntry read) {
    Entry entry{.seconds = read.seconds + offset,
                .before = std::move(read.system),
                .passages = std::move(read.passages),
                .behind = {},
                .num_new_tokens = std::clamp(read.num_new_tokens, 1, options.max_new_tokens)};
    if (!entries_.empty() && entry.seconds < entries_.back().seconds) {
      offset += entries_.back().seconds - entry.seconds;
      entry.seconds = entries_.back().seconds;
    }
    constexpr std::size_t kConstantParts = 2;
    if (!options.as_served && entry.before.size() > kConstantParts) {
      entry.behind.assign(entry.before.begin() + kConstantParts, entry.before.end());
      entry.before.resize(kConstantParts);
    }
    for (const auto* parts : {&read.history, &read.web_search, &read.user_input}) {
      entry.behind.insert(entry.behind.end(), parts->begin(), parts->end());
    }
    if (entry.behind.empty()) throw Error("there is nothing behind the passages, not even a question");

    std::int64_t num_tokens = 0;
    for (const auto* parts : {&entry.before, &entry.passages, &entry.behind}) {
      for (const Part& part : *parts) num_tokens += part.num_tokens;
    }
    if (num_tokens > kMostTraceTokens) throw Error("a prompt of " + std::to_string(num_tokens) + " tokens");
    for (const Part& part : entry.passages) {
      used.emplace(part.id, part);
      size_.max_document_tokens = std::max(size_.max_document_tokens, part.num_tokens);
    }
    size_.max_prompt_tokens = std::max(size_.max_prompt_tokens, static_cast<int>(num_tokens));
    size_.max_new_tokens = std::max(size_.max_new_tokens, entry.num_new_tokens);
    entries_.push_back(std::move(entry));
  });
  if (entries_.empty()) throw Error(options.folder.string() + " has no request");
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
