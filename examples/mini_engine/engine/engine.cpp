#include "mini_engine/engine/engine.hpp"

#include "mini_engine/engine/engine_kinds.hpp"

namespace mini_engine {

std::unique_ptr<Engine> make_engine(const ModelFile& file, const EngineOptions& options) {
  return options.on_gpu ? make_gpu_engine(&file, file.config(), options)
                        : make_cpu_engine(&file, file.config(), options);
}

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const EngineOptions& options) {
  return options.on_gpu ? make_gpu_engine(nullptr, config, options) : make_cpu_engine(nullptr, config, options);
}

}  // namespace mini_engine
