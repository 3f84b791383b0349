// What every prompt of the experiments begins with.
#pragma once

#include <array>

#include "mini_engine/tokenizer.hpp"

namespace lab {

/// Instructions, and two questions with brief answers: without these a small model answers in sentences. Neither is out
/// of a data set.
inline constexpr std::array<mini_engine::ChatMessage, 5> kOpening = {{
    {"system",
     "Answer the question from the given passages. Reply with the shortest answer, a name, a date, a number or a few "
     "words copied from the passages, and nothing else."},
    {"user",
     "The lighthouse on Carrow Point was finished in 1864. Its lamp burned whale oil until electric light came in "
     "1921.\n\nThe keeper's cottage stands below it and was let to the painter Ada Holm.\n\n"
     "Question: When was the lighthouse on Carrow Point finished?"},
    {"assistant", "1864"},
    {"user",
     "Barley is the main crop of the valley, followed by flax.\n\nThe mill at Orsett was built by Tomas Reyle, who had "
     "learned his trade in Ghent.\n\nQuestion: Who built the mill at Orsett?"},
    {"assistant", "Tomas Reyle"},
}};

}  // namespace lab
