// Writes safetensors files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace test_support {

struct SafetensorsTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

/// A file of these tensors, one behind the other.
[[nodiscard]] std::vector<std::byte> write_safetensors(const std::vector<SafetensorsTensor>& tensors);

/// A file of any header text, sound or not, and `data_bytes` bytes behind it.
[[nodiscard]] std::vector<std::byte> write_safetensors_raw(std::string_view header, std::size_t data_bytes);

}  // namespace test_support
