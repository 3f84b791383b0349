#include "repair/runs.hpp"

#include <optional>
#include <utility>

#include "repair/row_choice.hpp"

namespace pikv::detail {
namespace {

class OnePassRun final : public RepairRun {
 public:
  explicit OnePassRun(std::vector<std::int32_t> rows) : pass_(RepairPass{.rows = std::move(rows), .probes = {}}) {}

  std::optional<RepairPass> next() override { return std::exchange(pass_, std::nullopt); }

 private:
  std::optional<RepairPass> pass_;
};

class NarrowingRun final : public RepairRun {
 public:
  NarrowingRun(std::vector<std::int32_t> rows, std::vector<Narrowing> narrowings, std::vector<float> row_weights)
      : rows_(std::move(rows)), narrowings_(std::move(narrowings)), row_weights_(std::move(row_weights)) {}

  std::optional<RepairPass> next() override {
    if (std::exchange(begun_, true)) return std::nullopt;
    RepairPass pass{.rows = rows_, .probes = {}};
    for (const Narrowing& narrowing : narrowings_) pass.probes.push_back(narrowing.probe);
    return pass;
  }

  std::optional<std::vector<std::int32_t>> on_scores(const RepairProbe& probe, std::span<const float> scores) override {
    for (const Narrowing& narrowing : narrowings_) {
      if (narrowing.probe.layer != probe.layer) continue;
      std::vector<float> weighted(row_weights_);
      for (std::size_t row = 0; row < weighted.size(); ++row) weighted[row] *= scores[row];
      rows_ = top_rows(weighted.empty() ? scores : weighted, std::move(rows_), narrowing.num_rows);
      return rows_;
    }
    return std::nullopt;
  }

 private:
  std::vector<std::int32_t> rows_;  // still computed
  std::vector<Narrowing> narrowings_;
  std::vector<float> row_weights_;
  bool begun_ = false;
};

class QuestionFirstRun final : public RepairRun {
 public:
  QuestionFirstRun(std::int64_t num_prompt_rows, std::int32_t first_layer, std::int32_t end_layer,
                   RunAfterQuestion then)
      : attention_(static_cast<std::size_t>(num_prompt_rows)),
        first_layer_(first_layer),
        end_layer_(end_layer),
        then_(std::move(then)) {}

  std::optional<RepairPass> next() override {
    if (!std::exchange(begun_, true)) {
      RepairPass pass;
      for (std::int32_t layer = first_layer_; layer < end_layer_; ++layer) {
        pass.probes.push_back({.layer = layer, .signal = RepairSignal::kQuestionAttention});
      }
      return pass;
    }
    if (run_ == nullptr) {
      for (float& attention : attention_) attention /= static_cast<float>(end_layer_ - first_layer_);
      run_ = then_(attention_);
    }
    return run_->next();
  }

  std::optional<std::vector<std::int32_t>> on_scores(const RepairProbe& probe, std::span<const float> scores) override {
    if (run_ != nullptr) return run_->on_scores(probe, scores);
    for (std::size_t row = 0; row < attention_.size(); ++row) attention_[row] += scores[row];
    return std::nullopt;
  }

 private:
  std::vector<float> attention_;  // a sum until the question's pass is over
  std::int32_t first_layer_;
  std::int32_t end_layer_;
  RunAfterQuestion then_;
  std::unique_ptr<RepairRun> run_;  // of the passes behind the first
  bool begun_ = false;
};

}  // namespace

std::unique_ptr<RepairRun> one_pass_run(std::vector<std::int32_t> rows) {
  return std::make_unique<OnePassRun>(std::move(rows));
}

std::unique_ptr<RepairRun> narrowing_run(std::vector<std::int32_t> rows, std::vector<Narrowing> narrowings,
                                         std::vector<float> row_weights) {
  return std::make_unique<NarrowingRun>(std::move(rows), std::move(narrowings), std::move(row_weights));
}

std::unique_ptr<RepairRun> question_first_run(std::int64_t num_prompt_rows, std::int32_t first_layer,
                                              std::int32_t end_layer, RunAfterQuestion then) {
  return std::make_unique<QuestionFirstRun>(num_prompt_rows, first_layer, end_layer, std::move(then));
}

std::unique_ptr<RepairRun> most_attended_run(const RepairRequest& request, std::int32_t first_layer, double fraction) {
  std::vector<std::int32_t> rows = approximate_rows(request.plan);
  const std::size_t num_chosen = rows_of_fraction(fraction, rows.size());
  if (num_chosen == 0) return one_pass_run({});
  return question_first_run(request.plan.num_rows(), first_layer, request.num_layers,
                            [num_chosen, rows = std::move(rows)](std::span<const float> attention) {
                              return one_pass_run(top_rows(attention, rows, num_chosen));
                            });
}

}  // namespace pikv::detail
