// The tokenizer goldens of tests/golden, as several tests read them.
#pragma once

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "mini_engine/tokenizer.hpp"

namespace mini_engine::testing {

inline std::string golden_path(const std::string& name) { return std::string(PIKV_TEST_DATA) + "/golden/" + name; }

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What tests/golden/make_tokenizer_golden.py recorded for one tokenizer.
inline nlohmann::json tokenizer_golden(const std::string& tokenizer) {
  return nlohmann::json::parse(read_text(golden_path("tokenizer_golden.json"))).at(tokenizer);
}

inline Tokenizer small_tokenizer(const std::string& name) {
  return Tokenizer(read_tokenizer_json(golden_path("tokenizer_" + name + ".json")));
}

}  // namespace mini_engine::testing
