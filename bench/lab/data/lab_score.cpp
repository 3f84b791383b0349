// lab_score: adds answers and their scores to results.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <string>

#include "lab/data/score.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/model_file.hpp"

namespace {

struct Options {
  std::string results_path;
  std::string cases_path;
  std::string model_path;
  std::string out_path;
};

void run(const Options& options) {
  const lab::CaseFile cases = lab::load_cases(options.cases_path);
  const std::unique_ptr<mini_engine::ModelFile> model = mini_engine::open_model(options.model_path);
  const mini_engine::Tokenizer tokenizer(model->tokenizer());
  std::ofstream out(options.out_path);
  const lab::ScoreCounts counts = lab::score_results(options.results_path, cases, tokenizer, out);
  out.close();
  if (!out) throw mini_engine::Error(options.out_path + ": cannot be written");
  fmt::print(stderr, "{} answers scored, {} other lines\n", counts.num_scored, counts.num_passed);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Adds answers and their scores to results.");
  Options options;
  app.add_option("--results", options.results_path, "JSON lines with \"case\" and \"generated\"")->required();
  app.add_option("--cases", options.cases_path, "The file of lab_prepare they were made from")->required();
  app.add_option("--model", options.model_path, "GGUF file or Hugging Face folder, for its tokenizer")
      ->required()
      ->envname("PIKV_SMOLLM2");
  app.add_option("--out", options.out_path, "Where the lines go; another file than the results")->required();
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lab_score: {}\n", error.what());
    return 1;
  }
  return 0;
}
