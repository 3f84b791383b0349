// Cases of random tokens for the small model.
#pragma once

#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "support/engine_runs.hpp"

namespace test_support {

/// Cases of four passages each, the second one gold, served and earlier in orders of their own.
inline lab::CaseFile lab_cases(std::size_t num_cases) {
  const int vocab_size = small_config().vocab_size;
  lab::CaseFile file;
  file.header = {.set = "made up", .tokenizer_fingerprint = "00", .vocab_size = 101, .seed = 1, .top_k = 4};
  unsigned seed = 1;
  for (std::size_t i = 0; i < num_cases; ++i) {
    lab::Case one;
    one.id = "q" + std::to_string(i);
    one.cluster = one.id;
    one.system = random_tokens(7, vocab_size, 99);
    for (const int length : {21, 16, 33, 18}) {
      const std::string id = one.id + "." + std::to_string(one.passages.size());
      one.passages.push_back(
          {.id = id, .gold = one.passages.size() == 1, .tokens = random_tokens(length, vocab_size, ++seed)});
    }
    one.question = random_tokens(9, vocab_size, ++seed);
    one.served = {2, 0, 1, 3};
    one.earlier = {1, 3, 0, 2};
    one.answers = {"so"};
    one.answer_tokens = random_tokens(3, vocab_size, ++seed);
    file.cases.push_back(std::move(one));
  }
  return file;
}

}  // namespace test_support
