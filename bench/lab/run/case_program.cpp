#include "lab/run/case_program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <thread>

namespace lab {

void CaseProgram::add_options(CLI::App& app) {
  engine.add_options(app);
  app.add_option("--cases", cases_path, "as lab_prepare writes them")->required();
  app.add_option("--results", results_path, "JSON lines; what is there is not computed again")->required();
  app.add_option("--num-cases", num_cases, "of the file, the first so many; 0: all")->capture_default_str();
  app.add_option(
         "--workers", num_workers,
         "that serve at once, each with an engine of its own: for a GPU, which one alone leaves idle half of the "
         "time. With several, times are not measured")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--store-mib", store_mib, "of each store of chunks, of each worker")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--num-forced", runner.num_forced, "tokens of the answer over which predictions are compared")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
}

std::size_t CaseProgram::cases_of(const CaseFile& file) const {
  return num_cases == 0 ? file.cases.size() : std::min(num_cases, file.cases.size());
}

void CaseProgram::run(const CaseFile& file, JobQueue& jobs,
                      const std::function<void(CaseRunner& runner, std::size_t job)>& serve) const {
  EngineChoice choice = engine;
  choice.is_shared = num_workers > 1;
  if (choice.num_threads == 0 && num_workers > 1) {
    choice.num_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / num_workers);
  }
  CaseRunnerOptions options = runner;
  options.store_bytes = std::int64_t{store_mib} << 20;
  options.num_threads = choice.num_threads;
  options.measures_time = num_workers == 1;
  run_workers(num_workers, jobs, [&](JobQueue& left) {
    std::optional<std::size_t> job = left.next();
    if (!job) return;
    const ChosenEngine chosen = open_engine(choice);
    CaseRunner with(*chosen.engine, chosen.model->fingerprint(), file, options);
    for (; job; job = left.next()) serve(with, *job);
  });
}

int case_program_main(int argc, char** argv, CLI::App& app, const CaseProgram& program,
                      const std::function<void()>& run) {
  CLI11_PARSE(app, argc, argv);
  if (program.engine.is_missing(app.get_name())) return EngineChoice::kSkipped;
  try {
    run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", app.get_name(), error.what());
    return 1;
  }
  return 0;
}

}  // namespace lab
