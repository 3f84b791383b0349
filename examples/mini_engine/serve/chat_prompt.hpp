// From a conversation with documents to the segments of a prompt.
#pragma once

#include <vector>

#include "mini_engine/serve/openai_api.hpp"
#include "mini_engine/serve/request.hpp"
#include "mini_engine/tokenizer.hpp"

namespace mini_engine::serve {

/// The conversation in the model's template, ready for the assistant's turn. Documents stand at the beginning of the
/// first user message, each encoded on its own with a blank line behind it, so that its ids are the same in every
/// prompt; where there are none the prompt is one segment. Requires: a user message where there are documents. Throws
/// Error as apply_chat_template() does.
[[nodiscard]] std::vector<PromptSegment> chat_segments(const Tokenizer& tokenizer,
                                                       const std::vector<ApiMessage>& messages,
                                                       const std::vector<std::string>& documents);

}  // namespace mini_engine::serve
