// What templates are known by, and what they say of themselves.
#pragma once

#include <string_view>

namespace mini_engine {

/// What SmolLM2's template says where the caller gives no system message.
inline constexpr std::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

}  // namespace mini_engine
