#include "named_config.hpp"

#include "error.hpp"

namespace mini_engine {
namespace {

ModelConfig llama_3_1_8b() {
  ModelConfig config;
  config.num_layers = 32;
  config.hidden_size = 4096;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.ffn_size = 14336;
  config.vocab_size = 128256;
  config.max_positions = 131072;
  config.rope.theta = 500000.0;
  config.rope.scaling = RopeScaling::kLlama3;
  config.rope.factor = 8.0;
  return config;
}

ModelConfig smollm2_135m() {
  ModelConfig config;
  config.num_layers = 30;
  config.hidden_size = 576;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.ffn_size = 1536;
  config.vocab_size = 49152;
  config.max_positions = 8192;
  config.tied_embeddings = true;
  config.rope.theta = 100000.0;
  return config;
}

ModelConfig tiny() {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = 64;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.ffn_size = 128;
  config.vocab_size = 512;
  config.max_positions = 4096;
  return config;
}

}  // namespace

ModelConfig named_config(const std::string& name) {
  ModelConfig config;
  if (name == "llama3.1-8b") {
    config = llama_3_1_8b();
  } else if (name == "smollm2-135m") {
    config = smollm2_135m();
  } else if (name == "tiny") {
    config = tiny();
  } else {
    throw Error("no shapes named '" + name + "'; there are llama3.1-8b, smollm2-135m and tiny");
  }
  config.name = name;
  return config;
}

}  // namespace mini_engine
