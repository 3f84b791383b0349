// Which model a command runs, and on what: the options that its commands share.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "mini_engine/engine/engine.hpp"
#include "mini_engine/tokenizer.hpp"

namespace CLI {
class App;
}

namespace mini_engine {

struct ModelChoice {
  std::string path{};             ///< GGUF file or Hugging Face folder
  std::string random_weights{};   ///< instead: shapes by name (named_config.hpp)
  std::string tokenizer_path{};   ///< of another model; needed with random weights
  std::string device = "cpu";     ///< or "gpu"
  std::string precision{};        ///< of the weights, "fp32" or "bf16"; empty: fp32 on the CPU, bf16 on a GPU
  std::string cache{};            ///< the same of the KV cache; on a GPU, the precision of the weights
  std::string attention = "own";  ///< or "cudnn", on a GPU in bf16
  int num_threads = 0;
};

/// Adds --model, --random-weights, --tokenizer, --device, --precision, --cache, --attention and --threads.
void declare_model(CLI::App& command, ModelChoice& choice);

/// A model ready to run.
struct ChosenModel {
  std::unique_ptr<ModelFile> file;            ///< null for random weights
  std::unique_ptr<ModelFile> tokenizer_file;  ///< null when it is the model's own
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Engine> engine;

  /// Of the weights, for the keys of chunks; random weights have their name and seed.
  [[nodiscard]] std::array<std::byte, 32> fingerprint() const;
};

/// Random weights have as many tokens as the tokenizer. Throws Error for a choice of both or neither, random weights
/// without a tokenizer, and as make_engine() does.
[[nodiscard]] ChosenModel load_model(const ModelChoice& choice);

}  // namespace mini_engine
