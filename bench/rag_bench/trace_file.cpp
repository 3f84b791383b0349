#include "rag_bench/trace_file.hpp"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "mini_engine/error.hpp"

namespace rag_bench {
namespace {

using mini_engine::Error;
using nlohmann::json;

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
  if (count < 0 || count > kMostTraceTokens) throw Error(std::to_string(count) + " tokens");
  return static_cast<int>(count);
}

/// Numbers are of one space, whatever the kind of part.
std::map<std::int64_t, int> read_lengths(const std::filesystem::path& folder) {
  std::map<std::int64_t, int> lengths;
  for (const auto& [name, field] :
       {std::pair{"1_sys_prompt.jsonl", "sys_prompt_id"}, std::pair{"2_passages.jsonl", "passage_id"},
        std::pair{"3_history.jsonl", "history_id"}, std::pair{"4_user_input.jsonl", "user_input_id"},
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

void for_each_trace_entry(const std::filesystem::path& folder, const std::function<void(TraceEntry)>& body) {
  const std::map<std::int64_t, int> lengths = read_lengths(folder);
  for_each_line(folder / "0_trace.jsonl", [&](const json& line) {
    const json& ids = line.at("hash_ids");
    const auto parts = [&](const char* field) {
      std::vector<TracePart> known_parts;
      for (const json& id : ids.at(field)) {
        const auto known = lengths.find(id.get<std::int64_t>());
        if (known == lengths.end()) throw Error(field + (" " + id.dump()) + " has no length");
        if (known->second > 0) known_parts.push_back({known->first, known->second});
      }
      return known_parts;
    };
    body({.seconds = std::stod(line.at("timestamp").get<std::string>()),
          .system = parts("sys_prompt"),
          .passages = parts("passages_ids"),
          .history = parts("history"),
          .web_search = parts("web_search"),
          .user_input = parts("user_input"),
          .num_new_tokens = checked_tokens(line.at("output_length"))});
  });
}

}  // namespace rag_bench
