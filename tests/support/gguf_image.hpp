// A GGUF file as plain data that a test can bend out of shape before it is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace test_support {

/// Written field by field as described; the optional members replace what would follow from the others.
struct GgufImage {
  // The format's numbers of value types.
  static constexpr std::uint32_t kInt32 = 5, kUint32 = 4, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9;

  struct Value {
    std::string key;
    std::uint32_t type = 0;
    std::vector<std::byte> payload;
    std::optional<std::uint64_t> key_length;
  };
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> dims;  ///< fastest axis first
    std::uint32_t type = 0;
    std::vector<std::byte> bytes;
    std::optional<std::uint64_t> offset;
    std::optional<std::uint64_t> name_length;
  };

  /// Where things came to lie in the file.
  struct Written {
    std::vector<std::byte> bytes;
    std::map<std::string, std::uint64_t, std::less<>> key_offsets;     ///< of a metadata entry
    std::map<std::string, std::uint64_t, std::less<>> value_offsets;   ///< of its value, behind key and type
    std::map<std::string, std::uint64_t, std::less<>> tensor_offsets;  ///< of a tensor's entry
    std::uint64_t values_end = 0, tensors_end = 0, data_start = 0;
  };

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> num_tensors, num_values;
  std::vector<Value> values;
  std::vector<Tensor> tensors;
  std::uint64_t alignment = 32;

  void add_uint32(std::string key, std::uint32_t value);
  void add_float32(std::string key, float value);
  void add_bool(std::string key, bool value);
  void add_string(std::string key, std::string_view value);
  void add_strings(std::string key, const std::vector<std::string>& elements);
  void add_int32s(std::string key, const std::vector<std::int32_t>& elements);

  /// The first entry of that name; throws std::out_of_range when there is none.
  [[nodiscard]] Value& value(std::string_view key);
  [[nodiscard]] Tensor& tensor(std::string_view name);
  void erase_value(std::string_view key);
  void erase_tensor(std::string_view name);

  [[nodiscard]] Written write() const;
};

}  // namespace test_support
