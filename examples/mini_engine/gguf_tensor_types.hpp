// The numbers that GGUF gives to tensor types.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "model_file.hpp"

namespace mini_engine {

/// Empty for a type that this engine does not decode.
[[nodiscard]] std::optional<Encoding> encoding_of_gguf_type(std::uint32_t type);
/// The number by which GGUF knows the encoding.
[[nodiscard]] std::uint32_t gguf_type_of(Encoding encoding);
/// The format's name of a type, "unknown" for a number that it has not given out.
[[nodiscard]] std::string_view gguf_type_name(std::uint32_t type);

}  // namespace mini_engine
