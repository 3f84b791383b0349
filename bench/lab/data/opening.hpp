// What every prompt of the experiments begins with, and what stands behind its question.
#pragma once

#include <array>
#include <string_view>

#include "mini_engine/tokenizer.hpp"

namespace lab {

/// A small model heeds what it reads last.
inline constexpr std::string_view kQuestionEnd = "\nAnswer in at most five words, without a sentence.";

/// Instructions, and two questions with brief answers, which end as every question does. Neither is out of a data set.
inline constexpr std::array<mini_engine::ChatMessage, 5> kOpening = {{
    {"system", "Answer the question with a few words copied from the passages."},
    {"user",
     "The lighthouse on Carrow Point was finished in 1864. Its lamp burned whale oil until electric light came in "
     "1921.\n\nThe keeper's cottage stands below it and was let to the painter Ada Holm.\n\n"
     "Question: When was the lighthouse on Carrow Point finished?\nAnswer in at most five words, without a sentence."},
    {"assistant", "1864"},
    {"user",
     "Barley is the main crop of the valley, followed by flax.\n\nThe mill at Orsett was built by Tomas Reyle, who had "
     "learned his trade in Ghent.\n\n"
     "Question: Who built the mill at Orsett?\nAnswer in at most five words, without a sentence."},
    {"assistant", "Tomas Reyle"},
}};
static_assert(kOpening[1].content.ends_with(kQuestionEnd) && kOpening[3].content.ends_with(kQuestionEnd));

}  // namespace lab
