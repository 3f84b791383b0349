// `config.json` of a Hugging Face folder, from memory.
#pragma once

#include <string>
#include <string_view>

#include "config.hpp"

namespace mini_engine {

/// As parse_hf_config(), from the text of the file; `source` is the file named in messages.
[[nodiscard]] ModelConfig parse_hf_config_text(std::string_view text, const std::string& source);

}  // namespace mini_engine
