// lab_run: serves the cases of a file in the arms that are asked for and holds each against full recomputation. One
// JSON line a case and arm; a run that was stopped goes on where it was. Progress on standard error.
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/case_program.hpp"
#include "lab/run/progress.hpp"
#include "lab/run/result.hpp"

namespace {

struct Options {
  lab::CaseProgram program;
  std::vector<std::string> arms;
  std::size_t first_case = 0;
  std::size_t step = 1;
};

void add_options(CLI::App& app, Options& options) {
  options.program.add_options(app);
  app.add_option("--arms", options.arms, "names, one an argument")->required();
  app.add_option("--first-case", options.first_case, "leave out so many")->capture_default_str();
  app.add_option("--step", options.step, "every so manieth case from there on, so that several machines share a file")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--neighbours", options.program.runner.num_neighbours,
                 "passages that the arm of that name encodes behind")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_flag("--generate", options.program.runner.generates, "also each arm's own answer, of as many tokens");
  app.add_flag("--mechanism", options.program.runner.measures_mechanism,
               "also errors of K and V, and similarity of attention");
}

void run(const Options& options) {
  std::vector<lab::ArmSpec> arms;
  for (const std::string& name : options.arms) arms.push_back(lab::parse_arm(name));
  // All of it, whatever is run: neighbours and variants of a passage come from the whole file.
  const lab::CaseFile file = lab::load_cases(options.program.cases_path);
  lab::ResultFile results(options.program.results_path);
  std::vector<const lab::Case*> cases;
  for (std::size_t i = options.first_case; i < options.program.cases_of(file); i += options.step) {
    cases.push_back(&file.cases[i]);
  }
  lab::Progress progress(cases.size());
  lab::JobQueue jobs(cases.size());
  options.program.run(file, jobs, [&](lab::CaseRunner& runner, std::size_t job) {
    const lab::Case& one = *cases[job];
    bool is_begun = false;
    for (const lab::ArmSpec& arm : arms) {
      if (results.contains(one.id, arm.name)) continue;
      if (!is_begun) runner.begin(one);
      is_begun = true;
      results.add(file.header.set, one.id, one.cluster, arm, runner.run(arm));
    }
    progress.step(one.id);
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Serves prompts in several ways and compares each with full recomputation.", "lab_run");
  Options options;
  add_options(app, options);
  return lab::case_program_main(argc, argv, app, options.program, [&] { run(options); });
}
