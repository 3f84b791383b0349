// lab_run: serves the cases of a file in the arms that are asked for and holds each against full recomputation. One
// JSON line a case and arm; a run that was stopped goes on where it was. Progress on standard error.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/case_runner.hpp"
#include "lab/run/engine_choice.hpp"
#include "lab/run/progress.hpp"
#include "lab/run/result.hpp"

namespace {

struct Options {
  std::string cases_path, results_path;
  lab::EngineChoice engine;
  std::vector<std::string> arms;
  std::size_t num_cases = 0;
  std::size_t first_case = 0;
  std::size_t step = 1;
  int store_mib = 2048;
  lab::CaseRunnerOptions runner;
};

void add_options(CLI::App& app, Options& options) {
  options.engine.add_options(app);
  app.add_option("--cases", options.cases_path, "as lab_prepare writes them")->required();
  app.add_option("--results", options.results_path, "JSON lines; what is there is not computed again")->required();
  app.add_option("--arms", options.arms, "names, one an argument")->required();
  app.add_option("--num-cases", options.num_cases, "of the file, the first so many; 0: all")->capture_default_str();
  app.add_option("--first-case", options.first_case, "leave out so many")->capture_default_str();
  app.add_option("--step", options.step, "every so manieth case from there on, so that several runs share a file")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--store-mib", options.store_mib, "of each store of chunks")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--num-forced", options.runner.num_forced, "tokens of the answer over which predictions are compared")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  app.add_option("--neighbours", options.runner.num_neighbours, "passages that the arm of that name encodes behind")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_flag("--generate", options.runner.generates, "also each arm's own answer, of as many tokens");
  app.add_flag("--mechanism", options.runner.measures_mechanism, "also errors of K and V, and similarity of attention");
}

void run(Options options) {
  std::vector<lab::ArmSpec> arms;
  for (const std::string& name : options.arms) arms.push_back(lab::parse_arm(name));
  // All of it, whatever is run: neighbours and variants of a passage come from the whole file.
  const lab::CaseFile file = lab::load_cases(options.cases_path);
  std::vector<const lab::Case*> cases;
  const std::size_t end = options.num_cases == 0 ? file.cases.size() : std::min(options.num_cases, file.cases.size());
  for (std::size_t i = options.first_case; i < end; i += options.step) cases.push_back(&file.cases[i]);
  lab::ResultFile results(options.results_path);

  const lab::ChosenEngine chosen = lab::open_engine(options.engine);
  options.runner.store_bytes = std::int64_t{options.store_mib} << 20;
  lab::CaseRunner runner(*chosen.engine, chosen.model->fingerprint(), file, options.runner);
  lab::Progress progress(cases.size());
  for (const lab::Case* const one : cases) {
    bool is_begun = false;
    for (const lab::ArmSpec& arm : arms) {
      if (results.contains(one->id, arm.name)) continue;
      if (!is_begun) runner.begin(*one);
      is_begun = true;
      results.add(file.header.set, one->id, one->cluster, arm, runner.run(arm));
    }
    progress.step(one->id);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Serves prompts in several ways and compares each with full recomputation.");
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  if (options.engine.is_missing("lab_run")) return lab::EngineChoice::kSkipped;
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lab_run: {}\n", error.what());
    return 1;
  }
  return 0;
}
