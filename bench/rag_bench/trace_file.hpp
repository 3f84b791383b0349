// RAGPulse's format (github.com/flashserve/RAGPulse, arXiv 2511.12979): a folder with `0_trace.jsonl`, which gives the
// parts of each prompt by number, and five tables of their lengths in tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

namespace rag_bench {

/// Longer is no prompt's part; what a hostile file says must not become memory.
inline constexpr std::int64_t kMostTraceTokens = 1 << 20;

struct TracePart {
  std::int64_t id;  ///< of one space, whatever the kind of part
  int num_tokens;   ///< above 0
};

struct TraceEntry {
  double seconds = 0;  ///< as it stands in the file, where times may go back
  std::vector<TracePart> system, passages, history, web_search, user_input;
  int num_new_tokens = 0;
};

/// Calls body(entry) for each request in the order of the file; parts without tokens are left out. Throws
/// mini_engine::Error naming file and line for what is malformed, for a part whose length no table gives, and for what
/// body throws.
void for_each_trace_entry(const std::filesystem::path& folder, const std::function<void(TraceEntry)>& body);

}  // namespace rag_bench
