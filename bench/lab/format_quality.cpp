// format_quality: what each stored format costs in quality on a real model, and what encoding keys before RoPE buys.
// Prints Markdown on standard output and progress on standard error. The same numbers on every run of one build and
// machine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include "lab/report.hpp"
#include "lab/reuse_quality.hpp"
#include "lab/text_quality.hpp"
#include "mini_engine/cpu_model.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/tokenizer.hpp"
#include "rag_demo/corpus.hpp"

namespace {

// What CTest takes for "skipped".
constexpr int kSkipped = 77;

struct Options {
  std::string model_path;
  std::string corpus_path = PIKV_LAB_CORPUS;
  std::string json_path;
  int num_threads = 0;
  lab::ReuseOptions reuse;
  lab::TextOptions text;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model_path, "GGUF file or Hugging Face folder")->envname("PIKV_SMOLLM2");
  app.add_option("--corpus", options.corpus_path, "Folder of *.txt documents and questions.jsonl")
      ->capture_default_str();
  app.add_option("--num-questions", options.reuse.num_questions, "Prompts to compare")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  app.add_option("--top-k", options.reuse.top_k, "Passages retrieved for a question")
      ->capture_default_str()
      ->check(CLI::Range(4, 1000));
  app.add_option("--max-tokens", options.reuse.num_forced, "Tokens of the answer over which predictions are compared")
      ->capture_default_str()
      ->check(CLI::Range(1, 512));
  app.add_option("--seed", options.reuse.seed, "Of the order of questions and passages")->capture_default_str();
  app.add_option("--num-windows", options.text.num_windows, "Windows of the text; 0: all")->capture_default_str();
  app.add_option("--window-tokens", options.text.window_tokens, "Tokens of a window")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  app.add_option("--block-tokens", options.text.block_tokens, "Tokens stored at a time")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--threads", options.num_threads, "0: all cores")->capture_default_str()->check(CLI::Range(0, 1024));
  app.add_option("--json", options.json_path, "Also write JSON lines to this file");
}

void run(const Options& options) {
  const rag_demo::Corpus corpus = rag_demo::load_corpus(options.corpus_path);
  const std::unique_ptr<mini_engine::ModelFile> file = mini_engine::open_model(options.model_path);
  mini_engine::CpuModel model(*file, {.weights = mini_engine::Precision::kFloat32, .num_threads = options.num_threads});
  const mini_engine::Tokenizer tokenizer(file->tokenizer());
  std::string text;
  for (const rag_demo::Document& document : corpus.documents) text += document.text + "\n\n";

  const auto progress = [](const char* what) {
    return [what](std::size_t done, std::size_t count) { fmt::print(stderr, "{} {} of {}\n", what, done, count); };
  };
  const lab::ReuseReport reuse = lab::measure_reuse(model, tokenizer, corpus, options.reuse, progress("question"));
  const lab::TextReport windows = lab::measure_text(model, tokenizer.encode(text), options.text, progress("window"));
  fmt::print("{}", lab::to_markdown(reuse, windows));
  if (!options.json_path.empty()) lab::write_json_lines(reuse, windows, options.json_path);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures what each stored format costs in quality, with keys encoded before and after RoPE.");
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  options.reuse.num_threads = options.text.num_threads = options.num_threads;
  if (options.model_path.empty()) {
    fmt::print(stderr,
               "format_quality: skipped, for want of a model: give --model, or set PIKV_SMOLLM2 to what "
               "examples/rag_demo/fetch_model.sh prints\n");
    return kSkipped;
  }
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "format_quality: {}\n", error.what());
    return 1;
  }
  return 0;
}
