// The engines that a build may have.
#pragma once

#include <memory>

#include "mini_engine/engine/engine.hpp"

namespace mini_engine {

/// file: null for random weights of `config`.
[[nodiscard]] std::unique_ptr<Engine> make_cpu_engine(const ModelFile* file, const ModelConfig& config,
                                                      const EngineOptions& options);
[[nodiscard]] std::unique_ptr<Engine> make_gpu_engine(const ModelFile* file, const ModelConfig& config,
                                                      const EngineOptions& options);

}  // namespace mini_engine
