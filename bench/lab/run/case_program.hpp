// What programs that serve cases share: their options, their workers, and how they end.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <functional>
#include <string>

#include "lab/data/cases.hpp"
#include "lab/run/case_runner.hpp"
#include "lab/run/engine_choice.hpp"
#include "lab/run/workers.hpp"

namespace lab {

struct CaseProgram {
  std::string cases_path{}, results_path{};
  EngineChoice engine{};
  std::size_t num_cases = 0;  ///< 0: all
  int store_mib = 2048;
  int num_workers = 1;
  CaseRunnerOptions runner{};

  /// Must outlive the parsing.
  void add_options(CLI::App& app);
  /// Of a file, how many cases it is to serve.
  [[nodiscard]] std::size_t cases_of(const CaseFile& file) const;
  /// Serves all jobs, each worker with an engine and stores of its own. file: as CaseRunner takes it. serve: called
  /// from several threads, with a runner of the calling one alone. Throws what it throws.
  void run(const CaseFile& file, JobQueue& jobs,
           const std::function<void(CaseRunner& runner, std::size_t job)>& serve) const;
};

/// The whole of main(): parses, says that it skips where no model was named, and reports what `run` throws.
[[nodiscard]] int case_program_main(int argc, char** argv, CLI::App& app, const CaseProgram& program,
                                    const std::function<void()>& run);

}  // namespace lab
