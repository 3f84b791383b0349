#include "lab/data/passage_stream.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "lab/data/cases.hpp"
#include "lab/data/json_lines.hpp"
#include "mini_engine/error.hpp"
#include "rag_bench/trace_file.hpp"

namespace lab {
namespace {

using mini_engine::JsonField;
using rag_bench::TracePart;

constexpr std::size_t kConstantParts = 2;  // of RAGPulse's system prompts
constexpr std::size_t kMooncakeBlockTokens = 512;

std::vector<StreamPart> stream_parts(std::span<const TracePart> parts) {
  std::vector<StreamPart> result;
  for (const TracePart& part : parts) result.push_back({part.id, part.num_tokens});
  return result;
}

PassageStream checked(PassageStream stream, const std::filesystem::path& path) {
  if (stream.requests.empty()) throw mini_engine::Error(path.string() + ": has no request with passages");
  return stream;
}

}  // namespace

PassageStream read_ragpulse(const std::filesystem::path& folder) {
  PassageStream stream{.name = "ragpulse", .requests = {}};
  rag_bench::for_each_trace_entry(folder, [&](const rag_bench::TraceEntry& entry) {
    if (entry.passages.empty()) return;
    StreamRequest request{.passages = stream_parts(entry.passages), .served = {}, .num_leading = 0};
    if (entry.system.size() > kConstantParts) {
      request.served = stream_parts(std::span(entry.system).subspan(kConstantParts));
      request.num_leading = request.served.size();
    }
    request.served.insert(request.served.end(), request.passages.begin(), request.passages.end());
    stream.requests.push_back(std::move(request));
  });
  return checked(std::move(stream), folder);
}

PassageStream read_mooncake(const std::filesystem::path& path) {
  PassageStream stream{.name = "mooncake", .requests = {}};
  for_each_json_line(path, [&](const JsonField& line, std::string_view) {
    const std::size_t num_tokens = line["input_length"].index_below(std::size_t{1} << 30U);
    const JsonField hashes = line["hash_ids"];
    const nlohmann::json& ids = hashes.array();
    if ((num_tokens + kMooncakeBlockTokens - 1) / kMooncakeBlockTokens != ids.size()) {
      hashes.fail(std::to_string(ids.size()) + " blocks of 512 do not hold " + std::to_string(num_tokens) + " tokens");
    }
    StreamRequest request;
    for (const nlohmann::json& id : ids) {
      if (!id.is_number_unsigned()) line["hash_ids"].fail("holds what is no id: " + id.dump());
      const std::size_t begin = request.passages.size() * kMooncakeBlockTokens;
      request.passages.push_back(
          {id.get<std::int64_t>(), static_cast<std::int64_t>(std::min(kMooncakeBlockTokens, num_tokens - begin))});
    }
    if (request.passages.empty()) return;
    request.served = request.passages;
    stream.requests.push_back(std::move(request));
  });
  return checked(std::move(stream), path);
}

PassageStream read_case_stream(const std::filesystem::path& path) {
  const CaseFile file = load_cases(path);
  PassageStream stream{.name = file.header.set, .requests = {}};
  std::map<std::string, std::int64_t> numbers;  // of passages, by id
  for (const Case& one : file.cases) {
    StreamRequest request;
    for (const CasePassage& passage : one.passages) {
      const auto number = numbers.try_emplace(passage.id, static_cast<std::int64_t>(numbers.size())).first->second;
      request.passages.push_back({number, static_cast<std::int64_t>(passage.tokens.size())});
    }
    for (const std::size_t index : one.served) request.served.push_back(request.passages[index]);
    stream.requests.push_back(std::move(request));
  }
  return checked(std::move(stream), path);
}

}  // namespace lab
