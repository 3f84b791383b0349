// rag_demo: a real model answers questions over retrieved passages in shuffled order, in each mode of reuse.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/tokenizer.hpp"
#include "rag_demo/bm25.hpp"
#include "rag_demo/corpus.hpp"
#include "rag_demo/hit_rate.hpp"
#include "rag_demo/report.hpp"
#include "rag_demo/session.hpp"

namespace {

using namespace rag_demo;  // NOLINT: this file is the program

struct Options {
  std::string model_path;
  std::string corpus_path;
  std::vector<std::string> own_questions;
  std::size_t num_questions = 3;
  std::size_t top_k = 9;
  std::uint64_t seed = 1;
  std::string json_path;
  std::string precision = "fp32";
  std::string store_dtype = "fp32";
  std::string chunk_context = "system";
  SessionOptions session;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model_path, "GGUF file or Hugging Face folder")->required();
  app.add_option("--corpus", options.corpus_path, "Folder of *.txt documents, questions.jsonl optional")->required();
  app.add_option("--question", options.own_questions, "Ask this instead of the corpus's questions; may be repeated");
  app.add_option("--num-questions", options.num_questions, "How many of the corpus's questions to serve")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  app.add_option("--top-k", options.top_k, "Passages retrieved for a question")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--seed", options.seed, "Of the order of questions and passages")->capture_default_str();
  app.add_option("--threads", options.session.num_threads, "0: all cores")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--precision", options.precision, "Of the weights")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--store-dtype", options.store_dtype, "Of stored chunks")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  app.add_option("--chunk-context", options.chunk_context, "What chunks are encoded behind: alone, or system prompt")
      ->capture_default_str()
      ->check(CLI::IsMember({"alone", "system"}));
  app.add_option("--max-tokens", options.session.max_answer_tokens, "Longest answer")
      ->capture_default_str()
      ->check(CLI::Range(1, 512));
  app.add_option("--json", options.json_path, "Also write everything printed to this file");
}

std::vector<Question> choose_questions(const Corpus& corpus, const Options& options) {
  if (options.own_questions.empty()) return corpus.questions;
  std::vector<Question> questions;
  for (const std::string& text : options.own_questions) {
    // A question that the corpus knows keeps its answers.
    const auto known = std::find_if(corpus.questions.begin(), corpus.questions.end(),
                                    [&](const Question& candidate) { return candidate.question == text; });
    questions.push_back(
        known != corpus.questions.end()
            ? *known
            : Question{.id = "own", .question = text, .answers = {}, .documents = {}, .answer_prefix = {}});
  }
  return questions;
}

void print_request(const Request& request, const Corpus& corpus, std::size_t number, std::size_t count) {
  fmt::print("\nQuestion {}/{}: {}\n  passages as served:", number, count, request.question);
  for (const std::size_t document : request.documents) fmt::print(" {}", corpus.documents[document].id);
  fmt::print("\n");
  if (!request.answers.empty()) fmt::print("  known answer: {}\n", request.answers.front());
}

/// Line ends would break the layout of answers below each other.
std::string on_one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

Report run(const Options& options) {
  const auto begin = std::chrono::steady_clock::now();
  const Corpus corpus = load_corpus(options.corpus_path);
  const std::vector<Question> questions = choose_questions(corpus, options);
  if (questions.empty()) {
    throw std::runtime_error(options.corpus_path + ": has no questions.jsonl; ask one with --question");
  }
  const std::unique_ptr<mini_engine::ModelFile> file = mini_engine::open_model(options.model_path);
  mini_engine::CpuModel model(*file, {.weights = options.precision == "bf16" ? mini_engine::Precision::kBFloat16
                                                                             : mini_engine::Precision::kFloat32,
                                      .num_threads = options.session.num_threads});
  const mini_engine::Tokenizer tokenizer(file->tokenizer());
  const PromptBuilder builder(tokenizer);
  const std::vector<std::vector<TokenId>> passages = encode_passages(builder, corpus);

  std::vector<std::string> texts;
  for (const Document& document : corpus.documents) texts.push_back(document.text);
  const Bm25Index index(texts);
  const std::vector<Request> stream = make_requests(questions, index, options.top_k, options.seed);
  const std::span<const Request> served(stream.data(), std::min(options.num_questions, stream.size()));

  Report report;
  report.model_name = file->config().name;
  report.num_threads = options.session.num_threads > 0
                           ? options.session.num_threads
                           : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  report.num_documents = corpus.documents.size();
  fmt::print("model    {} ({} layers), {} threads, ready after {:.1f} s\ncorpus   {} documents, {} questions\n",
             report.model_name.empty() ? options.model_path : report.model_name, file->config().num_layers,
             report.num_threads, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
             report.num_documents, questions.size());
  std::fflush(stdout);

  Session session(model, tokenizer, builder, passages, file->fingerprint(), options.session);
  const bool terminal = isatty(STDERR_FILENO) != 0;
  report.ingest = session.ingest(served, [&](std::int64_t done) {
    if (terminal) fmt::print(stderr, "\rencoding documents: {}", done);
  });
  if (terminal) fmt::print(stderr, "\r\033[K");
  fmt::print("ingest   {} documents, {} tokens, {:.0f} MB of keys and values, in {:.1f} s\n",
             report.ingest.num_documents, report.ingest.num_tokens, static_cast<double>(report.ingest.num_bytes) / 1e6,
             report.ingest.seconds);

  for (std::size_t i = 0; i < served.size(); ++i) {
    print_request(served[i], corpus, i + 1, served.size());
    std::vector<ModeRun> runs = session.serve(
        served[i],
        [](Mode mode) {
          fmt::print("{}  {:<13}", mode == Mode::kFull ? "" : "\n", mode_name(mode));
          std::fflush(stdout);
        },
        [](const std::string& piece) {
          fmt::print("{}", on_one_line(piece));
          std::fflush(stdout);
        });
    fmt::print("\n");
    report.served.push_back(ServedRequest{served[i], std::move(runs)});
  }

  report.hit_rates = replay_hit_rates(stream, builder, passages);
  double prefill_gflops = 0;  // the best of the full recomputations, as the other rates are the best of several
  for (const ServedRequest& request : report.served) {
    const ModeRun& full = request.runs.front();
    prefill_gflops =
        std::max(prefill_gflops, prefill_flops(model.config(), full.rows.computed_tokens()) / (full.ttft_ms * 1e6));
  }
  report.speed = measure_speed(mini_engine::kv_geometry(model.config(), pikv::DType::kFloat32),
                               session.chunk_server().keyer(), report.num_threads);
  report.speed.prefill_gflops = prefill_gflops;
  return report;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Answers questions over retrieved passages in shuffled order, in each mode of reuse, side by side.");
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  options.session.chunk_context = options.chunk_context == "alone" ? ChunkContext::kAlone : ChunkContext::kBehindSystem;
  options.session.store_dtype = options.store_dtype == "bf16"   ? pikv::DType::kBFloat16
                                : options.store_dtype == "fp16" ? pikv::DType::kFloat16
                                                                : pikv::DType::kFloat32;
  try {
    const Report report = run(options);
    fmt::print("\n{}", to_table(report));
    if (!options.json_path.empty()) write_json(report, options.json_path);
  } catch (const std::exception& error) {
    fmt::print(stderr, "rag_demo: {}\n", error.what());
    return 1;
  }
  return 0;
}
