#include "lab/text_quality.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "lab/format_storage.hpp"
#include "mini_engine/error.hpp"

namespace lab {
namespace {

using mini_engine::PagedCache;
using mini_engine::Sequence;
using mini_engine::TokenId;

constexpr int kPageSize = 16;

/// -ln p(token). row: [V] logits.
double negative_log_likelihood(std::span<const float> row, TokenId token) {
  const double largest = *std::ranges::max_element(row);
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum) - static_cast<double>(row[token]);
}

class Window {
 public:
  Window(mini_engine::Model& model, const FormatStorage& storage, PagedCache& cache, std::span<const TokenId> tokens,
         std::size_t block_tokens)
      : model_(model),
        storage_(storage),
        sequence_(cache),
        tokens_(tokens),
        block_tokens_(block_tokens),
        first_rows_(storage.geometry(), static_cast<std::int64_t>(block_tokens)),
        first_nll_(append_block(0, &first_rows_)) {}

  /// The window's sum with earlier blocks in the arm's format; with null as the engine's own passes left them, which
  /// must come first, since arms overwrite the first block.
  double nll(const Arm* arm) {
    sequence_.truncate(static_cast<int>(block_tokens_));
    if (arm != nullptr) storage_.place(storage_.store(first_rows_, *arm, 0), sequence_, 0);
    double sum = first_nll_;
    for (std::size_t begin = block_tokens_; begin < tokens_.size(); begin += block_tokens_) {
      KvRows rows(storage_.geometry(), static_cast<std::int64_t>(block_tokens_));
      sum += append_block(begin, &rows);
      if (arm == nullptr || begin + block_tokens_ == tokens_.size()) continue;
      const auto first = static_cast<std::int32_t>(begin);
      storage_.place(storage_.store(rows, *arm, first), sequence_, first);
    }
    return sum;
  }

 private:
  /// Computes a block and returns the sum over the tokens that its rows predict: all but its own first, and the one
  /// behind it.
  double append_block(std::size_t begin, KvRows* captured) {
    const std::vector<float> logits =
        append_rows(model_, sequence_, tokens_.subspan(begin, block_tokens_), 0, captured);
    const auto vocab = static_cast<std::size_t>(model_.config().vocab_size);
    double sum = 0;
    for (std::size_t i = 0; i < block_tokens_ && begin + i + 1 < tokens_.size(); ++i) {
      sum += negative_log_likelihood(std::span(logits).subspan(i * vocab, vocab), tokens_[begin + i + 1]);
    }
    return sum;
  }

  mini_engine::Model& model_;
  const FormatStorage& storage_;
  Sequence sequence_;
  std::span<const TokenId> tokens_;
  std::size_t block_tokens_;
  KvRows first_rows_;
  double first_nll_;  // the same in every arm: nothing comes before
};

void check(const TextOptions& options, std::size_t num_tokens) {
  if (options.block_tokens == 0 || options.window_tokens % options.block_tokens != 0 ||
      options.window_tokens / options.block_tokens < 2) {
    throw mini_engine::Error("format quality: a window of " + std::to_string(options.window_tokens) +
                             " tokens does not hold two or more whole blocks of " +
                             std::to_string(options.block_tokens));
  }
  if (num_tokens < options.window_tokens) {
    throw mini_engine::Error("format quality: a text of " + std::to_string(num_tokens) +
                             " tokens is shorter than a window of " + std::to_string(options.window_tokens));
  }
}

}  // namespace

TextReport measure_text(mini_engine::Model& model, std::span<const TokenId> text, const TextOptions& options,
                        const std::function<void(std::size_t, std::size_t)>& progress) {
  check(options, text.size());
  TextReport report{.num_windows = text.size() / options.window_tokens,
                    .window_tokens = options.window_tokens,
                    .block_tokens = options.block_tokens,
                    .arms = {}};
  if (options.num_windows > 0) report.num_windows = std::min(report.num_windows, options.num_windows);
  for (const Arm& arm : kArms) report.arms.push_back({.arm = arm, .nll = {}});

  const FormatStorage storage(model, options.num_threads);
  PagedCache cache(model.config(), mini_engine::Precision::kFloat32,
                   static_cast<int>(options.window_tokens / kPageSize + 1), kPageSize);
  for (std::size_t i = 0; i < report.num_windows; ++i) {
    Window window(model, storage, cache, text.subspan(i * options.window_tokens, options.window_tokens),
                  options.block_tokens);
    const double untouched = i == 0 ? window.nll(nullptr) : 0;
    for (TextArm& arm : report.arms) arm.nll.push_back(window.nll(&arm.arm));
    const double control = report.arms[kControlArm].nll.front();
    // Keys stored in fp32 and re-anchored are the engine's own, bit for bit; anything else is a fault of this program.
    if (i == 0 && control != untouched) {
      throw mini_engine::Error("format quality: stored in fp32 the text costs " + std::to_string(control) +
                               " nats, in the engine's own cache " + std::to_string(untouched));
    }
    progress(i + 1, report.num_windows);
  }
  return report;
}

}  // namespace lab
