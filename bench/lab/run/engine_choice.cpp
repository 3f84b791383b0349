#include "lab/run/engine_choice.hpp"

#include <fmt/format.h>

#include <cstdio>

namespace lab {

void EngineChoice::add_options(CLI::App& app) {
  app.add_option("--model", model_path, "GGUF file or Hugging Face folder")->envname("PIKV_SMOLLM2");
  app.add_option("--device", device)->check(CLI::IsMember({"cpu", "gpu"}))->capture_default_str();
  app.add_option("--precision", precision)->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  app.add_option("--threads", num_threads, "0: all cores")->check(CLI::Range(0, 1024))->capture_default_str();
}

bool EngineChoice::is_missing(const std::string& program) const {
  if (!model_path.empty()) return false;
  fmt::print(stderr,
             "{}: skipped, for want of a model: give --model, or set PIKV_SMOLLM2 to what "
             "examples/rag_demo/fetch_model.sh prints\n",
             program);
  return true;
}

ChosenEngine open_engine(const EngineChoice& choice) {
  ChosenEngine chosen{.model = mini_engine::open_model(choice.model_path), .engine = nullptr};
  const auto precision =
      choice.precision == "fp32" ? mini_engine::Precision::kFloat32 : mini_engine::Precision::kBFloat16;
  chosen.engine = mini_engine::make_engine(*chosen.model, {.on_gpu = choice.device == "gpu",
                                                           .weights = precision,
                                                           .cache = precision,
                                                           .num_threads = choice.num_threads,
                                                           .records_graphs = !choice.is_shared});
  return chosen;
}

}  // namespace lab
