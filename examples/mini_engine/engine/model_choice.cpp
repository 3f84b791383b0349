#include "mini_engine/engine/model_choice.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "mini_engine/engine/progress_bar.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/named_config.hpp"

namespace mini_engine {
namespace {

Precision precision_of(const std::string& name, Precision otherwise) {
  if (name.empty()) return otherwise;
  return name == "bf16" ? Precision::kBFloat16 : Precision::kFloat32;
}

void check_choice(const ModelChoice& choice) {
  if (choice.path.empty() == choice.random_weights.empty()) {
    throw Error("give a model (--model) or the name of one whose weights are to be random (--random-weights)");
  }
  if (!choice.random_weights.empty() && choice.tokenizer_path.empty()) {
    throw Error("random weights have no tokenizer; name a GGUF file or a folder that has one (--tokenizer)");
  }
}

EngineOptions engine_options(const ModelChoice& choice) {
  const bool on_gpu = choice.device == "gpu";
  const Precision weights = precision_of(choice.precision, on_gpu ? Precision::kBFloat16 : Precision::kFloat32);
  const Precision cache = precision_of(choice.cache, on_gpu ? weights : Precision::kFloat32);
  if (on_gpu && cache != weights) throw Error("on a GPU, --cache is the precision of the weights (--precision)");
  return {.on_gpu = on_gpu,
          .weights = weights,
          .cache = cache,
          .num_threads = choice.num_threads,
          .attention = choice.attention == "cudnn" ? AttentionKind::kCudnn : AttentionKind::kOwn};
}

}  // namespace

void declare_model(CLI::App& command, ModelChoice& choice) {
  const auto precision = CLI::IsMember({"fp32", "bf16"});
  command.add_option("--model", choice.path, "GGUF file or Hugging Face folder");
  command.add_option("--random-weights", choice.random_weights,
                     "instead of a model: llama3.1-8b, smollm2-135m or tiny, with weights that are random");
  command.add_option("--tokenizer", choice.tokenizer_path,
                     "GGUF file or folder of another model whose tokenizer to use");
  command.add_option("--device", choice.device, "cpu or gpu")
      ->check(CLI::IsMember({"cpu", "gpu"}))
      ->capture_default_str();
  command
      .add_option("--precision", choice.precision,
                  "of the weights: fp32 (as the CPU does when not told) or bf16 (a GPU)")
      ->check(precision);
  command.add_option("--cache", choice.cache, "of the KV cache: fp32 or bf16")->check(precision);
  command
      .add_option("--attention", choice.attention,
                  "of long passes on a GPU: own, or cudnn to compare with cuDNN's (bf16, in a build that found it)")
      ->check(CLI::IsMember({"own", "cudnn"}))
      ->capture_default_str();
  command.add_option("--threads", choice.num_threads, "of the CPU; 0 takes all cores")->capture_default_str();
}

std::array<std::byte, 32> ChosenModel::fingerprint() const {
  if (file != nullptr) return file->fingerprint();
  std::array<std::byte, 32> made{};
  const std::string& name = engine->model().config().name;
  for (std::size_t i = 0; i < std::min(name.size(), made.size()); ++i) made[i] = static_cast<std::byte>(name[i]);
  return made;
}

ChosenModel load_model(const ModelChoice& choice) {
  check_choice(choice);
  EngineOptions options = engine_options(choice);
  ChosenModel chosen;
  if (!choice.path.empty()) chosen.file = open_model(choice.path);
  if (!choice.tokenizer_path.empty()) chosen.tokenizer_file = open_model(choice.tokenizer_path);
  const ModelFile& text = chosen.tokenizer_file != nullptr ? *chosen.tokenizer_file : *chosen.file;
  chosen.tokenizer = std::make_unique<Tokenizer>(text.tokenizer());
  if (chosen.file != nullptr) {
    ProgressBar bar(stderr);
    options.progress = [&](std::int64_t done, std::int64_t all) { bar.show(done, all); };
    chosen.engine = make_engine(*chosen.file, options);
    return chosen;
  }
  ModelConfig config = named_config(choice.random_weights);
  // A token without text could not be answered with.
  config.vocab_size = text.config().vocab_size;
  chosen.engine = make_engine(config, options);
  return chosen;
}

}  // namespace mini_engine
