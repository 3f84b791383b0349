// Cutting a model's reply down to the answer in it.
#pragma once

#include <string_view>

namespace rag_demo {

/// The first phrase of `reply`, trimmed: up to the end of the line, or to one of ".,;:!?" that is followed by white
/// space or ends the reply, so that "1,016", "07:00" and "3.2 tonnes" stay whole. Small models answer first and ramble
/// afterwards. The result points into `reply`. Pure; thread-safe.
[[nodiscard]] std::string_view first_phrase(std::string_view reply);

}  // namespace rag_demo
