// What a format adds to the answers of re-anchored prompts: the divergence of next-token distributions from the same
// prompt with chunks in bf16, and the errors of keys and values behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lab/arm.hpp"
#include "mini_engine/model.hpp"
#include "mini_engine/tokenizer.hpp"
#include "rag_demo/corpus.hpp"

namespace lab {

struct ReuseOptions {
  std::size_t num_questions = 48;
  std::size_t top_k = 9;         ///< passages retrieved
  std::size_t min_passages = 4;  ///< questions with fewer are passed over
  std::size_t num_forced = 16;   ///< tokens of the full recomputation's answer whose predictions are compared
  std::uint64_t seed = 1;        ///< of the order of questions and passages
  int num_threads = 0;           ///< of pikv's backend; 0: all cores
};

/// One arm, reference included; vectors over questions are in the order of ReuseReport::questions.
struct ReuseArm {
  Arm arm;
  std::vector<double> kl;            ///< mean KL(reference || arm) over a question's forced tokens, in nats
  std::vector<double> top1;          ///< share of them at which both put the same token first
  std::vector<double> key_errors;    ///< [L * H], over the distinct passages used
  std::vector<double> value_errors;  ///< [L * H]
  double bytes_per_token = 0;
};

struct ReuseReport {
  std::vector<std::string> questions;
  std::size_t num_passages = 0;                        ///< distinct ones
  std::size_t num_passage_tokens = 0;                  ///< of those
  std::size_t num_prompt_tokens = 0;                   ///< of all prompts
  double unevenness_before = 0, unevenness_after = 0;  ///< see key_channel_unevenness(); means over passages
  std::vector<ReuseArm> arms;                          ///< as kArms
};

/// Passages are encoded behind the system prompt, as the demo does. progress: called after each question. Throws
/// mini_engine::Error when no question has enough passages.
[[nodiscard]] ReuseReport measure_reuse(mini_engine::Model& model, const mini_engine::Tokenizer& tokenizer,
                                        const rag_demo::Corpus& corpus, const ReuseOptions& options,
                                        const std::function<void(std::size_t done, std::size_t count)>& progress);

}  // namespace lab
