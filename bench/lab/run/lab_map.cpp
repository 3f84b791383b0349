// lab_map: where reuse of chunks holds and where it does not, one axis at a time, on prompts made out of the cases of a
// file. One JSON line a place and case; a run that was stopped goes on where it was. Progress on standard error.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/case_runner.hpp"
#include "lab/run/engine_choice.hpp"
#include "lab/run/map_cells.hpp"
#include "lab/run/progress.hpp"
#include "lab/run/result.hpp"

namespace {

struct Options {
  std::string cases_path, results_path;
  lab::EngineChoice engine;
  std::vector<std::string> axes;
  std::size_t num_cases = 24;
  std::size_t most_tokens = 8192;
  std::string budget_policy = "prophet";
  std::uint64_t seed = 1;
  int store_mib = 2048;
  lab::CaseRunnerOptions runner{.measures_gold_alone = true};
};

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> axes = lab::MapCells::axes();
  axes.emplace_back("all");
  options.engine.add_options(app);
  app.add_option("--cases", options.cases_path, "as lab_prepare writes them")->required();
  app.add_option("--results", options.results_path, "JSON lines; what is there is not computed again")->required();
  app.add_option("--axis", options.axes, "names, separated by spaces or commas")
      ->required()
      ->delimiter(',')
      ->check(CLI::IsMember(axes));
  app.add_option("--num-cases", options.num_cases, "the first so many; 0: all")->capture_default_str();
  app.add_option("--most-tokens", options.most_tokens, "of a prompt; longer places are left out")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--budget-policy", options.budget_policy, "repair by a fraction of the rows, on the axis budget")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of neighbours, orders and replaced tokens")->capture_default_str();
  app.add_option("--num-forced", options.runner.num_forced, "tokens of the answer over which predictions are compared")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--store-mib", options.store_mib, "of each store of chunks")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
}

void run(Options options) {
  if (std::ranges::count(options.axes, "all") != 0) options.axes = lab::MapCells::axes();
  const lab::CaseFile file = lab::load_cases(options.cases_path);
  const std::size_t num_cases =
      options.num_cases == 0 ? file.cases.size() : std::min(options.num_cases, file.cases.size());
  const lab::MapCells cells(file, options.budget_policy, options.seed);
  lab::MapFile results(options.results_path);

  const lab::ChosenEngine chosen = lab::open_engine(options.engine);
  const auto max_positions = static_cast<std::size_t>(chosen.engine->model().config().max_positions);
  const std::size_t most_tokens =
      std::min(options.most_tokens, max_positions - std::min(max_positions, options.runner.num_forced));
  struct Job {
    std::string case_id;
    lab::MapCell cell;
  };
  std::vector<Job> jobs;
  lab::CaseFile longest{.header = file.header, .cases = {}};  // what the runner's caches must have room for
  std::size_t left_out = 0;
  for (const std::string& axis : options.axes) {
    for (std::size_t i = 0; i < num_cases; ++i) {
      for (lab::MapCell& cell : cells.make(axis, i)) {
        const std::string& id = file.cases[i].id;
        if (results.contains(id, cell.place.name())) continue;
        if (cell.prompt.num_tokens() > most_tokens) {
          ++left_out;
          continue;
        }
        if (longest.cases.empty() || longest.cases[0].num_tokens() < cell.prompt.num_tokens()) {
          longest.cases = {cell.prompt};
        }
        jobs.push_back({id, std::move(cell)});
      }
    }
  }
  if (left_out != 0) fmt::print(stderr, "left out: {} places of more than {} tokens\n", left_out, most_tokens);
  if (jobs.empty()) return;
  options.runner.store_bytes = std::int64_t{options.store_mib} << 20;
  lab::CaseRunner runner(*chosen.engine, chosen.model->fingerprint(), longest, options.runner);
  const lab::ArmSpec other_order = lab::parse_arm("shuffled-full");
  lab::Progress progress(jobs.size());
  for (const Job& job : jobs) {
    runner.begin(job.cell.prompt, job.cell.reference);
    const lab::ArmResult result = runner.run(job.cell.arm);
    std::optional<double> floor;
    if (job.cell.prompt.passages.size() > 1) floor = lab::mean_kl(runner.run(other_order));
    results.add(file.header.set, job.case_id, job.cell.place, result, floor);
    progress.step(job.case_id + " " + job.cell.place.name());
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures where reuse of chunks holds, one axis at a time.");
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  if (options.engine.is_missing("lab_map")) return lab::EngineChoice::kSkipped;
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lab_map: {}\n", error.what());
    return 1;
  }
  return 0;
}
