// lab_run: serves the cases of a file in the arms that are asked for and holds each against full recomputation. One
// JSON line a case and arm; a run that was stopped goes on where it was. Progress on standard error.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/case_runner.hpp"
#include "lab/run/result.hpp"
#include "mini_engine/engine/engine.hpp"
#include "mini_engine/model_file.hpp"

namespace {

constexpr int kSkipped = 77;  // what CTest takes for it

struct Options {
  std::string model_path, cases_path, results_path;
  std::string device = "cpu";
  std::string precision = "fp32";
  std::vector<std::string> arms;
  std::size_t num_cases = 0;
  int num_threads = 0;
  int store_mib = 2048;
  bool generates = false;
  lab::CaseRunnerOptions runner;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model_path, "GGUF file or Hugging Face folder")->envname("PIKV_SMOLLM2");
  app.add_option("--cases", options.cases_path, "as lab_prepare writes them")->required();
  app.add_option("--results", options.results_path, "JSON lines; what is there is not computed again")->required();
  app.add_option("--arms", options.arms, "names, separated by spaces or commas")->required()->delimiter(',');
  app.add_option("--num-cases", options.num_cases, "the first so many; 0: all")->capture_default_str();
  app.add_option("--device", options.device)->check(CLI::IsMember({"cpu", "gpu"}))->capture_default_str();
  app.add_option("--precision", options.precision)->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  app.add_option("--threads", options.num_threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--store-mib", options.store_mib, "of each store of chunks")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--num-forced", options.runner.num_forced, "tokens of the answer over which predictions are compared")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  app.add_option("--neighbours", options.runner.num_neighbours, "passages that the arm of that name encodes behind")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_flag("--generate", options.generates, "also each arm's own answer, of as many tokens");
  app.add_flag("--mechanism", options.runner.measures_mechanism, "also errors of K and V, and similarity of attention");
}

/// Tells how far it is, and how long it will take at the pace so far.
class Progress {
 public:
  explicit Progress(std::size_t count) : count_(count) {}
  void step(const std::string& what) {
    ++done_;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    if (done_ < count_ && seconds < next_) return;
    next_ = seconds + 5;
    const double left = seconds / static_cast<double>(done_) * static_cast<double>(count_ - done_);
    fmt::print(stderr, "{} of {}, {:.0f} s, {:.0f} s left: {}\n", done_, count_, seconds, left, what);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::size_t count_, done_ = 0;
  Clock::time_point start_ = Clock::now();
  double next_ = 0;
};

void run(Options options) {
  std::vector<lab::ArmSpec> arms;
  for (const std::string& name : options.arms) arms.push_back(lab::parse_arm(name));
  lab::CaseFile file = lab::load_cases(options.cases_path);
  if (options.num_cases != 0 && options.num_cases < file.cases.size()) file.cases.resize(options.num_cases);
  lab::ResultFile results(options.results_path);

  const std::unique_ptr<mini_engine::ModelFile> model = mini_engine::open_model(options.model_path);
  const auto precision =
      options.precision == "fp32" ? mini_engine::Precision::kFloat32 : mini_engine::Precision::kBFloat16;
  const std::unique_ptr<mini_engine::Engine> engine =
      mini_engine::make_engine(*model, {.on_gpu = options.device == "gpu",
                                        .weights = precision,
                                        .cache = precision,
                                        .num_threads = options.num_threads});
  options.runner.store_bytes = std::int64_t{options.store_mib} << 20;
  options.runner.num_generated = options.generates ? options.runner.num_forced : 0;
  lab::CaseRunner runner(*engine, model->fingerprint(), file, options.runner);
  Progress progress(file.cases.size());
  for (const lab::Case& one : file.cases) {
    bool is_begun = false;
    for (const lab::ArmSpec& arm : arms) {
      if (results.contains(one.id, arm.name)) continue;
      if (!is_begun) runner.begin(one);
      is_begun = true;
      results.add(file.header.set, one.id, one.cluster, arm, runner.run(arm));
    }
    progress.step(one.id);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Serves prompts in several ways and compares each with full recomputation.");
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  if (options.model_path.empty()) {
    fmt::print(stderr,
               "lab_run: skipped, for want of a model: give --model, or set PIKV_SMOLLM2 to what "
               "examples/rag_demo/fetch_model.sh prints\n");
    return kSkipped;
  }
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lab_run: {}\n", error.what());
    return 1;
  }
  return 0;
}
