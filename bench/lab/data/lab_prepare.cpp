// lab_prepare: turns a data set into cases of token ids. What it left out and what retrieval found goes to standard
// error.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include "lab/data/cases.hpp"
#include "lab/data/make_cases.hpp"
#include "lab/data/readers.hpp"
#include "lab/data/tokenizer_fingerprint.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/tokenizer.hpp"

namespace {

// The most that an experiment generates or scores behind a prompt.
constexpr std::size_t kAnswerTokens = 128;

struct Options {
  std::string set;
  std::string file_path;
  std::string model_path;
  std::string out_path;
  std::size_t num_cases = 0;
  std::size_t top_k = 0;
  std::size_t block_tokens = 128;
  std::uint64_t seed = 1;
  std::size_t max_tokens = 8192;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--set", options.set, "What the file is")
      ->required()
      ->check(CLI::IsMember({"xquad", "nq", "musique", "hotpot", "text"}));
  app.add_option("--file", options.file_path, "The data set, as published; gzip is fine")->required();
  app.add_option("--model", options.model_path, "GGUF file or Hugging Face folder, for its tokenizer")
      ->required()
      ->envname("PIKV_SMOLLM2");
  app.add_option("--out", options.out_path, "Cases as JSON lines")->required();
  app.add_option("--num-questions", options.num_cases, "Questions, or windows of a text; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000));
  app.add_option("--top-k", options.top_k,
                 "Passages retrieved for a question (xquad 5, nq 10) or blocks of a window (text 8)")
      ->check(CLI::Range(1, 1000));
  app.add_option("--block-tokens", options.block_tokens, "Tokens of a block (text)")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--seed", options.seed, "Of which questions there are and of the orders of passages")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000));
  app.add_option("--max-tokens", options.max_tokens, "Longest prompt with 128 tokens of answer")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
}

lab::QuestionSet read_questions(const Options& options) {
  if (options.set == "xquad") return lab::read_squad(options.file_path);
  if (options.set == "nq") return lab::read_nq_open(options.file_path);
  if (options.set == "musique") return lab::read_musique(options.file_path);
  return lab::read_hotpotqa(options.file_path);
}

std::size_t default_top_k(const std::string& set) { return set == "xquad" ? 5 : set == "text" ? 8 : 10; }

void print_recall(const lab::MadeCases& made) {
  if (made.num_with_gold == 0) return;
  fmt::print(stderr, "recall before gold is forced in:");
  for (std::size_t k = 1; k <= made.num_found.size(); ++k) {
    if (k != 1 && k != 5 && k != made.num_found.size()) continue;
    fmt::print(stderr, " @{} {:.3f}", k,
               static_cast<double>(made.num_found[k - 1]) / static_cast<double>(made.num_with_gold));
  }
  fmt::print(stderr, "\n");
}

std::vector<lab::Case> question_cases(const Options& options, const mini_engine::Tokenizer& tokenizer,
                                      std::size_t top_k) {
  const lab::QuestionSet set = read_questions(options);
  lab::MadeCases made = lab::make_question_cases(set, tokenizer,
                                                 {.num_cases = options.num_cases,
                                                  .top_k = top_k,
                                                  .with_gold = options.set == "xquad",
                                                  .seed = options.seed,
                                                  .max_tokens = options.max_tokens,
                                                  .answer_tokens = kAnswerTokens});
  fmt::print(stderr, "{} questions over {} passages in {}; {} left out as longer than {} tokens\n",
             set.questions.size(), set.pool.texts().size(), options.file_path, made.num_too_long, options.max_tokens);
  print_recall(made);
  return std::move(made.cases);
}

void run(const Options& options) {
  const bool brings_passages = options.set == "musique" || options.set == "hotpot";
  if (brings_passages && options.top_k != 0) {
    throw mini_engine::Error("--top-k: questions of " + options.set + " come with their passages");
  }
  const std::unique_ptr<mini_engine::ModelFile> model = mini_engine::open_model(options.model_path);
  const mini_engine::Tokenizer tokenizer(model->tokenizer());
  const std::size_t top_k = options.top_k != 0 ? options.top_k : default_top_k(options.set);

  lab::CaseFile file{.header = {.set = options.set,
                                .tokenizer_fingerprint = lab::tokenizer_fingerprint(tokenizer.data()),
                                .vocab_size = tokenizer.data().pieces.size(),
                                .seed = options.seed,
                                .top_k = top_k},
                     .cases = {}};
  if (options.set == "text") {
    file.cases = lab::make_window_cases(lab::read_plain_text(options.file_path), tokenizer,
                                        {.num_cases = options.num_cases,
                                         .num_blocks = top_k,
                                         .block_tokens = options.block_tokens,
                                         .answer_tokens = kAnswerTokens,
                                         .seed = options.seed});
  } else {
    file.cases = question_cases(options, tokenizer, top_k);
  }
  lab::write_cases(file, options.out_path);

  std::size_t num_tokens = 0;
  std::size_t longest = 0;
  for (const lab::Case& one : file.cases) {
    num_tokens += one.num_tokens();
    longest = std::max(longest, one.num_tokens());
  }
  fmt::print(stderr, "{} cases in {}; prompts of {} tokens on average, {} at most\n", file.cases.size(),
             options.out_path, file.cases.empty() ? 0 : num_tokens / file.cases.size(), longest);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Turns a data set into cases of token ids.");
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lab_prepare: {}\n", error.what());
    return 1;
  }
  return 0;
}
