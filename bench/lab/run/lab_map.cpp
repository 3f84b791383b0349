// lab_map: where reuse of chunks holds and where it does not, one axis at a time, on prompts made out of the cases of a
// file. One JSON line a place and case; a run that was stopped goes on where it was. Progress on standard error.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/case_program.hpp"
#include "lab/run/map_cells.hpp"
#include "lab/run/progress.hpp"
#include "lab/run/result.hpp"

namespace {

struct Options {
  lab::CaseProgram program{.num_cases = 24, .runner = {.measures_gold_alone = true}};
  std::vector<std::string> axes;
  std::size_t most_tokens = 8192;
  std::string budget_policy = "prophet";
  std::uint64_t seed = 1;
};

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> axes = lab::MapCells::axes();
  axes.emplace_back("all");
  options.program.add_options(app);
  app.add_option("--axis", options.axes, "names, separated by spaces or commas")
      ->required()
      ->delimiter(',')
      ->check(CLI::IsMember(axes));
  app.add_option("--most-tokens", options.most_tokens, "of a prompt; longer places are left out")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--budget-policy", options.budget_policy, "repair by a fraction of the rows, on the axis budget")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of neighbours, orders and replaced tokens")->capture_default_str();
}

struct Job {
  std::string case_id;
  lab::MapCell cell;
};

/// What is not there yet, of those places that the model has positions for; says how many it leaves out.
std::vector<Job> jobs_of(const Options& options, const lab::CaseFile& file, const lab::MapFile& results) {
  const lab::MapCells cells(file, options.budget_policy, options.seed);
  const auto max_positions =
      static_cast<std::size_t>(mini_engine::open_model(options.program.engine.model_path)->config().max_positions);
  const std::size_t most_tokens =
      std::min(options.most_tokens, max_positions - std::min(max_positions, options.program.runner.num_forced));
  const bool wants_all = std::ranges::count(options.axes, "all") != 0;
  std::vector<Job> jobs;
  std::size_t left_out = 0;
  for (const std::string& axis : wants_all ? lab::MapCells::axes() : options.axes) {
    for (std::size_t i = 0; i < options.program.cases_of(file); ++i) {
      for (lab::MapCell& cell : cells.make(axis, i)) {
        const std::string& id = file.cases[i].id;
        if (results.contains(id, cell.place.name())) continue;
        if (cell.prompt.num_tokens() > most_tokens) {
          ++left_out;
        } else {
          jobs.push_back({id, std::move(cell)});
        }
      }
    }
  }
  if (left_out != 0) fmt::print(stderr, "left out: {} places of more than {} tokens\n", left_out, most_tokens);
  return jobs;
}

void run(const Options& options) {
  const lab::CaseFile file = lab::load_cases(options.program.cases_path);
  lab::MapFile results(options.program.results_path);
  const std::vector<Job> jobs = jobs_of(options, file, results);
  if (jobs.empty()) return;
  const auto longest = std::ranges::max_element(jobs, {}, [](const Job& job) { return job.cell.prompt.num_tokens(); });
  // What the runners' caches must have room for.
  const lab::CaseFile room{.header = file.header, .cases = {longest->cell.prompt}};
  const lab::ArmSpec other_order = lab::parse_arm("shuffled-full");
  lab::Progress progress(jobs.size());
  lab::JobQueue queue(jobs.size());
  options.program.run(room, queue, [&](lab::CaseRunner& runner, std::size_t index) {
    const auto& [case_id, cell] = jobs[index];
    runner.begin(cell.prompt, cell.reference);
    const lab::ArmResult result = runner.run(cell.arm);
    std::optional<double> floor;
    if (cell.prompt.passages.size() > 1) floor = lab::mean_kl(runner.run(other_order));
    results.add(file.header.set, case_id, cell.place, result, floor);
    progress.step(case_id + " " + cell.place.name());
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures where reuse of chunks holds, one axis at a time.", "lab_map");
  Options options;
  add_options(app, options);
  return lab::case_program_main(argc, argv, app, options.program, [&] { run(options); });
}
