#include "mini_engine/engine/engine_kinds.hpp"
#include "mini_engine/error.hpp"

namespace mini_engine {

std::unique_ptr<Engine> make_gpu_engine(const ModelFile*, const ModelConfig&, const EngineOptions&) {
  throw Error("this build has no GPU engine (it needs the CUDA toolkit with cuBLASLt)");
}

}  // namespace mini_engine
