// Which model a command runs: named shapes, and choices that cannot be.
#include <doctest/doctest.h>

#include <string>

#include "mini_engine/engine/engine.hpp"
#include "mini_engine/engine/model_choice.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/named_config.hpp"

namespace {

using namespace mini_engine;

TEST_CASE("named shapes are valid, have no end tokens, and unknown names are told the known ones") {
  for (const char* name : {"llama3.1-8b", "smollm2-135m", "tiny"}) {
    CAPTURE(name);
    const ModelConfig config = named_config(name);
    CHECK_NOTHROW(validate(config, name));
    CHECK(config.eos_ids.empty());
    CHECK(config.name == name);
  }
  const ModelConfig llama = named_config("llama3.1-8b");
  CHECK(llama.num_layers == 32);
  CHECK(llama.rope.scaling == RopeScaling::kLlama3);
  CHECK_THROWS_WITH_AS((void)named_config("llama"),
                       "no shapes named 'llama'; there are llama3.1-8b, smollm2-135m and tiny", Error);
}

TEST_CASE("a choice names one model, and a tokenizer where weights are random") {
  CHECK_THROWS_WITH_AS((void)load_model({}),
                       "give a model (--model) or the name of one whose weights are to be random (--random-weights)",
                       Error);
  CHECK_THROWS_AS((void)load_model({.path = "a.gguf", .random_weights = "tiny"}), Error);
  CHECK_THROWS_WITH_AS((void)load_model({.random_weights = "tiny"}),
                       "random weights have no tokenizer; name a GGUF file or a folder that has one (--tokenizer)",
                       Error);
  CHECK_THROWS_WITH_AS((void)load_model({.path = "a.gguf", .device = "gpu", .precision = "bf16", .cache = "fp32"}),
                       "on a GPU, --cache is the precision of the weights (--precision)", Error);
  CHECK_THROWS_AS((void)load_model({.path = "/nowhere/model.gguf"}), Error);
}

TEST_CASE("the CPU engine computes, and keeps chunks in its own memory alone") {
  const std::unique_ptr<Engine> engine = make_engine(named_config("tiny"), {.num_threads = 1});
  PagedCache cache = engine->make_cache(4, 16);
  CHECK(cache.memory() == CacheMemory::kHost);
  CHECK(engine->store_dtype() == pikv::DType::kFloat32);
  CHECK(engine->device_bytes_in_use() == 0);
  CHECK(engine->reuse_device(ChunkPlace::kDevice).backend == nullptr);
  CHECK_THROWS_WITH_AS((void)engine->reuse_device(ChunkPlace::kPinned),
                       "the CPU engine keeps chunks in its own memory only", Error);
  CHECK_THROWS_WITH_AS((void)make_engine(named_config("tiny"), {.num_threads = 1, .attention = AttentionKind::kCudnn}),
                       "the CPU engine computes attention itself; cuDNN's is a GPU's", Error);
}

}  // namespace
