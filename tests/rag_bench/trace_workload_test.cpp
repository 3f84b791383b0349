// Requests out of a trace: what is in a prompt, when it comes, and what a trace may not say.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "mini_engine/error.hpp"
#include "rag_bench/trace_workload.hpp"

namespace {

using mini_engine::serve::PromptSegment;
using mini_engine::serve::Request;
using rag_bench::TraceWorkload;

const std::filesystem::path kTrace = PIKV_TEST_TRACE;

/// A copy of the trace, to be damaged.
class Copy {
 public:
  Copy() : path_(std::filesystem::temp_directory_path() / ("pikv_trace_test." + std::to_string(::getpid()))) {
    std::filesystem::copy(kTrace, path_);
  }
  ~Copy() { std::filesystem::remove_all(path_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  void append(const char* file, const std::string& line) const { std::ofstream(path_ / file, std::ios::app) << line << '\n'; }
  [[nodiscard]] TraceWorkload open() const { return TraceWorkload({.folder = path_, .vocab_size = 100}); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::vector<std::size_t> lengths(const Request& request) {
  std::vector<std::size_t> made;
  for (const PromptSegment& segment : request.segments) made.push_back(segment.tokens.size());
  return made;
}

std::string request_line(const std::string& timestamp, const std::string& passages, const std::string& question) {
  return R"({"timestamp": ")" + timestamp + R"(", "output_length": 1, "hash_ids": {"sys_prompt": [], "passages_ids": )" +
         passages + R"(, "history": [], "web_search": [], "user_input": )" + question + "}}";
}

TEST_CASE("a trace's prompts hold its passages as documents, and nothing that differs stands before them") {
  const TraceWorkload trace({.folder = kTrace, .max_new_tokens = 100, .vocab_size = 1000});
  const Request first = trace.request(0);
  CHECK(lengths(first) == std::vector<std::size_t>{12 + 3, 17, 33, 8, 2 + 4});
  CHECK(first.segments[0].kind == PromptSegment::Kind::kText);
  CHECK(first.segments[1].kind == PromptSegment::Kind::kDocument);
  CHECK(first.segments[4].kind == PromptSegment::Kind::kText);
  CHECK(first.max_tokens == 3);
  CHECK(trace.request(4).max_tokens == 100);  // 300 in the trace

  const Request second = trace.request(1);
  CHECK(second.segments[0].tokens == first.segments[0].tokens);
  CHECK(second.segments[1].tokens == first.segments[2].tokens);
  CHECK(second.segments[2].tokens == first.segments[1].tokens);
  CHECK(lengths(trace.request(2)) == std::vector<std::size_t>{15, 8, 33, 1 + 21 + 6});
  CHECK(lengths(trace.request(3)) == std::vector<std::size_t>{15, 2 + 14 + 7});

  const TraceWorkload served({.folder = kTrace, .vocab_size = 1000, .as_served = true});
  CHECK(lengths(served.request(0)) == std::vector<std::size_t>{12 + 3 + 2, 17, 33, 8, 4});
}

TEST_CASE("a trace says how much memory it takes and when requests come, and goes round") {
  const TraceWorkload trace({.folder = kTrace, .vocab_size = 1000});
  CHECK(trace.size().num_documents == 5);
  CHECK(trace.size().document_tokens == 17 + 33 + 8 + 40 + 25);
  CHECK(trace.size().max_document_tokens == 40);
  CHECK(trace.size().max_prompt_tokens == 15 + 33 + 17 + 40 + 5 + 14 + 5);
  CHECK(trace.size().max_new_tokens == 256);
  CHECK(trace.document(1) == trace.request(0).segments[2].tokens);
  CHECK(trace.arrival(0) == 0.0);
  CHECK(trace.arrival(5) == 15.0);
  CHECK(trace.arrival(6 + 2) == 15.0 + 6.0);
  CHECK(lengths(trace.request(6)) == lengths(trace.request(0)));
}

TEST_CASE("a time that goes back begins another recording behind the first") {
  const Copy copy;
  copy.append("0_trace.jsonl", request_line("3", "[1]", "[40]"));
  copy.append("0_trace.jsonl", request_line("4.5", "[1]", "[40]"));
  const TraceWorkload trace = copy.open();
  CHECK(trace.arrival(5) == 15.0);
  CHECK(trace.arrival(6) == 15.0);
  CHECK(trace.arrival(7) == 16.5);
}

TEST_CASE("a trace that cannot be is refused with file and line") {
  const auto refusal = [](const Copy& copy) {
    try {
      (void)copy.open();
    } catch (const mini_engine::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  {
    const Copy copy;
    CHECK(refusal(copy).empty());
    copy.append("0_trace.jsonl", request_line("20", "[99]", "[40]"));
    CHECK(refusal(copy).find("0_trace.jsonl, line 7: passages_ids 99 has no length") != std::string::npos);
  }
  {
    const Copy copy;
    copy.append("0_trace.jsonl", request_line("20", "[1]", "[]"));
    CHECK(refusal(copy).find("line 7: there is nothing behind the passages") != std::string::npos);
  }
  {
    const Copy copy;
    copy.append("0_trace.jsonl", request_line("soon", "[1]", "[40]"));
    CHECK(refusal(copy).find("line 7: ") != std::string::npos);
  }
  {
    const Copy copy;
    copy.append("0_trace.jsonl", R"({"timestamp": "20")");
    CHECK(refusal(copy).find("line 7: ") != std::string::npos);
  }
  {
    const Copy copy;
    copy.append("2_passages.jsonl", R"({"passage_id": 3, "token_length": 5})");
    CHECK(refusal(copy).find("2_passages.jsonl, line 6: number 3 is taken") != std::string::npos);
  }
  {
    const Copy copy;
    copy.append("2_passages.jsonl", R"({"passage_id": 7, "token_length": -5})");
    CHECK(refusal(copy).find("2_passages.jsonl, line 6: -5 tokens") != std::string::npos);
  }
  {
    const Copy copy;
    std::filesystem::remove(copy.path() / "4_user_input.jsonl");
    CHECK(refusal(copy).find("cannot open") != std::string::npos);
  }
}

}  // namespace
