// `mini_engine check`: whether pikv vouches for reuse on a model.
#pragma once

#include "mini_engine/engine/model_choice.hpp"

namespace CLI {
class App;
}

namespace mini_engine {

struct CheckSettings {
  ModelChoice model;
  int num_rows = 4096;  ///< the farthest position that is looked at; less where the model ends before
};

/// Adds the command's options. The settings must outlive its parsing.
void declare_check(CLI::App& command, CheckSettings& settings);

/// Prints what was checked; returns whether the model is vouched for. Throws Error when it cannot be read.
[[nodiscard]] bool check_chosen_model(const CheckSettings& settings);

}  // namespace mini_engine
