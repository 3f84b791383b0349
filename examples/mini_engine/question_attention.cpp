#include "mini_engine/question_attention.hpp"

#include <algorithm>
#include <limits>

#include "mini_engine/pikv_views.hpp"

namespace mini_engine {

QuestionAttention::QuestionAttention(const pikv::RepairAttention& what, std::span<const std::int32_t> question,
                                     std::int64_t num_rows, pikv::RowScorer& scorer, const ProbeMemory& memory,
                                     pikv::StreamRef stream)
    : what_(what),
      question_(question.begin(), question.end()),
      num_rows_(static_cast<std::size_t>(num_rows)),
      scorer_(scorer),
      memory_(memory),
      stream_(stream),
      question_rows_(memory.upload(question_)),
      sums_(memory.upload(std::vector<float>(2 * num_rows_))) {}

void QuestionAttention::add(pikv::AttentionScoring scoring, const TurnedQueries& queries) {
  if (question_.empty()) return;
  scoring.query_dtype = dtype_of(queries.precision);
  scoring.query_stride = queries.row_stride;
  const std::span<const std::int32_t> rows = elements<std::int32_t>(question_rows_, question_.size());
  const std::span<float> sums = scores_of(sums_, 2 * num_rows_);
  const auto add_rows = [&](std::span<const std::int32_t> of, std::int32_t first_row, std::span<float> to) {
    const auto first = std::lower_bound(queries.rows.begin(), queries.rows.end(), first_row);
    const std::int64_t skipped = (first - queries.rows.begin()) * queries.row_stride;
    scoring.queries = static_cast<const std::byte*>(queries.data) + skipped * pikv::dtype_bytes(scoring.query_dtype);
    scoring.query_rows = of;
    scoring.key_scores = to;
    check(scorer_.add_attention_async(scoring, stream_));
  };
  add_rows(rows, question_.front(), sums.first(num_rows_));
  if (what_.from == pikv::RepairAttention::From::kQuestionAndAnswer) {
    add_rows(rows.last(1), question_.back(), sums.last(num_rows_));
  }
}

std::vector<float> QuestionAttention::mean() const {
  if (question_.empty()) return std::vector<float>(num_rows_, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> sums = memory_.download(sums_, 2 * num_rows_);
  const auto num_layers = static_cast<float>(what_.num_layers());
  std::vector<float> mean(num_rows_);
  for (std::size_t row = 0; row < num_rows_; ++row) {
    mean[row] = (sums[row] / static_cast<float>(question_.size()) + sums[num_rows_ + row]) / num_layers;
  }
  return mean;
}

}  // namespace mini_engine
