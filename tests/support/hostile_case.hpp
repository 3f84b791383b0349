// Malformed model files, each with what the complaint about it has to name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace test_support {

struct HostileCase {
  std::string name;
  std::vector<std::byte> bytes;
  std::string field;         ///< named in the message
  std::uint64_t offset = 0;  ///< named in the message
  std::string reason;        ///< a part of the message
};

/// Mutations of minimal_model() as a GGUF file.
[[nodiscard]] std::vector<HostileCase> hostile_gguf_files();
/// Malformed safetensors files.
[[nodiscard]] std::vector<HostileCase> hostile_safetensors_files();

}  // namespace test_support
