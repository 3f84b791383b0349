// The model that a program of the laboratory computes with, and where, as its command line says.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "mini_engine/engine/engine.hpp"
#include "mini_engine/model_file.hpp"

namespace lab {

struct EngineChoice {
  static constexpr int kSkipped = 77;  ///< what CTest takes for it

  std::string model_path;
  std::string device = "cpu";
  std::string precision = "fp32";
  int num_threads = 0;
  bool is_shared = false;  ///< whether other engines of the process compute at the same time

  /// Must outlive the parsing.
  void add_options(CLI::App& app);
  /// Whether no model was named, which it then says on standard error.
  [[nodiscard]] bool is_missing(const std::string& program) const;
};

struct ChosenEngine {
  std::unique_ptr<mini_engine::ModelFile> model;
  std::unique_ptr<mini_engine::Engine> engine;
};

/// Throws mini_engine::Error as open_model() and make_engine() do.
[[nodiscard]] ChosenEngine open_engine(const EngineChoice& choice);

}  // namespace lab
