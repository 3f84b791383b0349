// The safetensors container: an 8-byte length, a JSON header that names the tensors, and their bytes.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor_table.hpp"

namespace mini_engine {

/// One file's tensors, ordered by where they lie.
struct SafetensorsContents {
  std::vector<StoredTensor> tensors;
  std::uint64_t header_end = 0;  ///< where the header ends and the bytes begin
};

/// Reads a `.safetensors` file. `bytes` outlive the result; `file` is named in messages. Accepted are the types F32,
/// F16 and BF16. Throws Error with file, field and offset for anything malformed: a header over 100 MB or not an
/// object of the known members, duplicate keys, shapes whose size overflows or is not that of their offsets, and
/// offsets that overlap, leave a gap, or do not cover the file to its last byte.
[[nodiscard]] SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

/// Reads the `weight_map` of a `model.safetensors.index.json`: the shard of every tensor. Throws Error for malformed
/// JSON, duplicate keys, and shards that are not plain names ending in ".safetensors".
[[nodiscard]] std::map<std::string, std::string> parse_safetensors_index(std::string_view text,
                                                                         const std::string& file);

}  // namespace mini_engine
