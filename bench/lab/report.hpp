// The results as Markdown for a reader and as JSON lines for programs.
#pragma once

#include <string>

#include "lab/reuse_quality.hpp"
#include "lab/text_quality.hpp"

namespace lab {

[[nodiscard]] std::string to_markdown(const ReuseReport& reuse, const TextReport& text);

/// One object a line: `{"experiment": "reuse", ...}` for each question and arm, `{"experiment": "text", ...}` for each
/// window and arm, and a `"summary": true` line for each arm of each. Throws mini_engine::Error when the file cannot be
/// written.
void write_json_lines(const ReuseReport& reuse, const TextReport& text, const std::string& path);

}  // namespace lab
