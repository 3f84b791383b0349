// The GGUF container: a header, typed metadata, a table of tensors and their data. What the metadata mean is not known
// here; gguf_model.hpp gives them meaning.
//
// Accepted are versions 2 and 3, little-endian. Layout, all integers unsigned unless said otherwise:
//   "GGUF"  u32 version  u64 num_tensors  u64 num_values
//   num_values  x { string key, u32 type, value }      string = u64 length, characters
//   num_tensors x { string name, u32 num_dims, u64 dims[num_dims], u32 type, u64 offset }
//   padding to the alignment, then each tensor's data padded to the alignment
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor_table.hpp"

namespace mini_engine {

enum class GgufType : std::uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

/// One metadata value; its bytes stay in the file.
struct GgufValue {
  GgufType type = GgufType::kUint8;
  GgufType element_type = GgufType::kUint8;  ///< of an array
  std::uint64_t offset = 0;                  ///< of the value in the file
  std::span<const std::byte> bytes;          ///< scalars, and arrays of them, unaligned
  std::vector<std::string_view> strings;     ///< one for a string, any number for an array of strings
};

struct GgufContents {
  std::string file;                  ///< for messages
  std::span<const std::byte> bytes;  ///< the whole file
  std::map<std::string_view, GgufValue> values;
  std::uint64_t values_end = 0;  ///< where the metadata end
  std::vector<StoredTensor> tensors;
  std::uint64_t tensors_end = 0;  ///< where the table of tensors ends
};

/// Reads the container. `bytes` outlive the result. Throws Error with file, field and offset for anything malformed:
/// nothing is allocated from a count that the file does not back with bytes, no arithmetic on the file's numbers can
/// wrap, and every tensor returned lies inside `bytes`, directly behind the one before it.
[[nodiscard]] GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& file);

}  // namespace mini_engine
