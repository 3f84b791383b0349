// One question with its retrieved passages, in the order they are served and in the order an earlier request had them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "pikv/plan.hpp"
#include "rag_demo/bm25.hpp"
#include "rag_demo/corpus.hpp"
#include "rag_demo/mode.hpp"
#include "rag_demo/prompt_builder.hpp"

namespace rag_demo {

struct Request {
  std::string question;
  std::string reply_begins;                ///< may be empty
  std::vector<std::string> answers;        ///< empty when nobody knows
  std::vector<std::size_t> documents;      ///< indices into the corpus, in the order served
  std::vector<std::size_t> earlier_order;  ///< the same documents as an earlier request had them
};

/// What the passages' tokens are, for the whole corpus: [num documents].
[[nodiscard]] std::vector<std::vector<TokenId>> encode_passages(const PromptBuilder& builder, const Corpus& corpus);

/// Retrieves `top_k` documents for each question and shuffles them twice; deterministic in `seed`.
[[nodiscard]] std::vector<Request> make_requests(const std::vector<Question>& questions, const Bm25Index& index,
                                                 std::size_t top_k, std::uint64_t seed);

/// The prompt of a request as `mode` sees it. In kFull and kExactPrefix all segments are fresh. recipe: of the stored
/// chunks.
[[nodiscard]] pikv::Prompt make_prompt(const Request& request, Mode mode, const PromptBuilder& builder,
                                       std::span<const std::vector<TokenId>> passages, const pikv::ChunkRecipe& recipe);

/// The earlier request's prompt, all fresh: the same passages in their earlier order.
[[nodiscard]] pikv::Prompt make_earlier_prompt(const Request& request, const PromptBuilder& builder,
                                               std::span<const std::vector<TokenId>> passages);

}  // namespace rag_demo
