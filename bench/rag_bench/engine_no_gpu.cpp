#include "mini_engine/error.hpp"
#include "rag_bench/engine.hpp"

namespace rag_bench {

std::unique_ptr<Engine> make_gpu_engine(const mini_engine::ModelConfig&) {
  throw mini_engine::Error("this build has no GPU engine");
}

}  // namespace rag_bench
