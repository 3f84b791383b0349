#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "lab/data/another_order.hpp"
#include "lab/data/make_cases.hpp"
#include "mini_engine/error.hpp"
#include "rag_bench/made_up.hpp"
#include "rag_demo/shuffle.hpp"

namespace lab {
namespace {

using mini_engine::TokenId;

enum Draw : std::uint64_t { kWhichWindows, kOrderOfBlocks };

/// Takes tokens off the front of a text.
class Cutter {
 public:
  explicit Cutter(std::span<const TokenId> tokens) : tokens_(tokens) {}

  std::vector<TokenId> next(std::size_t count) {
    std::vector<TokenId> piece(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(count));
    tokens_ = tokens_.subspan(count);
    return piece;
  }

 private:
  std::span<const TokenId> tokens_;
};

Case make_window(std::span<const TokenId> tokens, std::size_t number, TokenId bos_id, const WindowOptions& options) {
  const std::string name = "w" + std::to_string(number);
  Case one{.id = name,
           .cluster = name,
           .question_text = "",
           .system = {bos_id},
           .passages = {},
           .question = {},
           .served = {},
           .earlier = {},
           .answers = {},
           .answer_tokens = {}};
  Cutter cutter(tokens);
  for (std::size_t i = 0; i < options.num_blocks; ++i) {
    one.passages.push_back(
        {.id = name + ".b" + std::to_string(i), .gold = false, .tokens = cutter.next(options.block_tokens)});
    one.served.push_back(i);
  }
  one.question = cutter.next(options.question_tokens);
  one.answer_tokens = cutter.next(options.answer_tokens);
  std::mt19937_64 random = rag_bench::generator(options.seed, kOrderOfBlocks, number);
  one.earlier = another_order(one.served, random);
  return one;
}

}  // namespace

std::vector<Case> make_window_cases(const std::string& text, const mini_engine::Tokenizer& tokenizer,
                                    const WindowOptions& options) {
  const std::vector<TokenId> tokens = tokenizer.encode(text);
  const std::size_t window_tokens =
      options.num_blocks * options.block_tokens + options.question_tokens + options.answer_tokens;
  const std::size_t num_windows = tokens.size() / window_tokens;
  if (num_windows == 0) {
    throw mini_engine::Error("a text of " + std::to_string(tokens.size()) + " tokens is shorter than a window of " +
                             std::to_string(window_tokens));
  }
  std::vector<std::size_t> chosen(num_windows);
  std::iota(chosen.begin(), chosen.end(), std::size_t{0});
  std::mt19937_64 random = rag_bench::generator(options.seed, kWhichWindows, 0);
  rag_demo::shuffle(chosen, random);
  if (options.num_cases > 0) chosen.resize(std::min(chosen.size(), options.num_cases));
  std::ranges::sort(chosen);

  std::vector<Case> cases;
  for (const std::size_t window : chosen) {
    cases.push_back(make_window(std::span(tokens).subspan(window * window_tokens, window_tokens), window,
                                tokenizer.data().bos_id, options));
  }
  return cases;
}

}  // namespace lab
