// Requests that were once made: a trace gives the documents of each by number, their lengths in tokens, and the time,
// but no text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "rag_bench/trace_file.hpp"
#include "rag_bench/workload.hpp"

namespace rag_bench {

struct TraceOptions {
  std::filesystem::path folder;
  int max_new_tokens = 256;  ///< longer answers are cut
  int vocab_size = 0;
  std::uint64_t seed = 1;
  /// The third part of a system prompt is another in nearly every request, so that no prefix reaches past it. False puts
  /// it behind the passages, as whoever caches prefixes would.
  bool as_served = false;
};

/// A prompt is its system prompt, the passages as documents, history, web search and question. Behind the last request
/// comes the first again, later by the length of the trace.
class TraceWorkload final : public Workload {
 public:
  /// Reads `0_trace.jsonl` and the five tables of lengths beside it. Throws Error naming file and line for what is
  /// malformed and for a part whose length no table gives. A time before that of the request before begins another
  /// recording, which follows the first at once.
  explicit TraceWorkload(const TraceOptions& options);

  [[nodiscard]] mini_engine::serve::Request request(std::uint64_t index) const override;
  [[nodiscard]] std::vector<mini_engine::TokenId> document(std::int64_t index) const override;
  [[nodiscard]] WorkloadSize size() const override { return size_; }
  [[nodiscard]] std::optional<double> arrival(std::uint64_t index) const override;
  [[nodiscard]] std::string description() const override;

 private:
  using Part = TracePart;
  struct Entry {
    double seconds;
    std::vector<Part> before;  // the passages
    std::vector<Part> passages;
    std::vector<Part> behind;
    int num_new_tokens;
  };
  [[nodiscard]] std::vector<mini_engine::TokenId> tokens_of(const Part& part) const;
  [[nodiscard]] std::vector<mini_engine::TokenId> text_of(const std::vector<Part>& parts) const;

  TraceOptions options_;
  std::vector<Entry> entries_;
  std::vector<Part> documents_;  // that are used, by number
  WorkloadSize size_;
};

}  // namespace rag_bench
