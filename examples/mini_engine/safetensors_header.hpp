// The JSON header of a safetensors file, read event by event so that memory stays proportional to the tensors and
// every complaint knows its place.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mini_engine {

/// One member of the header as it is written; nothing about its numbers has been checked.
struct SafetensorsEntry {
  std::string name;
  std::uint64_t offset = 0;  ///< in the file, where its name ends
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::array<std::uint64_t, 2> data_offsets{};
};

/// Reads `header`, which starts at byte `header_offset` of `file`. Throws Error unless it is one object whose members
/// are `__metadata__` (strings by name) and tensors with exactly dtype, shape and data_offsets (two numbers), each key
/// once. At most eight axes.
[[nodiscard]] std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view header,
                                                                     std::uint64_t header_offset,
                                                                     const std::string& file);

}  // namespace mini_engine
