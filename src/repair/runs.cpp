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
  QuestionFirstRun(const RepairAttention& measured, RunAfterQuestion then) : then_(std::move(then)) {
    question_.emplace().attention = measured;
  }

  std::optional<RepairPass> next() override { return run_ == nullptr ? std::exchange(question_, {}) : run_->next(); }

  void on_attention(std::span<const float> attention) override {
    if (run_ == nullptr) {
      run_ = then_(attention);
    } else {
      run_->on_attention(attention);
    }
  }

  std::optional<std::vector<std::int32_t>> on_scores(const RepairProbe& probe, std::span<const float> scores) override {
    return run_ == nullptr ? std::nullopt : run_->on_scores(probe, scores);
  }

 private:
  std::optional<RepairPass> question_;
  RunAfterQuestion then_;
  std::unique_ptr<RepairRun> run_;  // of the passes behind the question's
};

}  // namespace

std::unique_ptr<RepairRun> one_pass_run(std::vector<std::int32_t> rows) {
  return std::make_unique<OnePassRun>(std::move(rows));
}

std::unique_ptr<RepairRun> narrowing_run(std::vector<std::int32_t> rows, std::vector<Narrowing> narrowings,
                                         std::vector<float> row_weights) {
  return std::make_unique<NarrowingRun>(std::move(rows), std::move(narrowings), std::move(row_weights));
}

std::unique_ptr<RepairRun> question_first_run(const RepairAttention& measured, RunAfterQuestion then) {
  return std::make_unique<QuestionFirstRun>(measured, std::move(then));
}

std::unique_ptr<RepairRun> most_attended_run(const RepairRequest& request, std::int32_t first_layer, double fraction) {
  std::vector<std::int32_t> rows = approximate_rows(request.plan);
  const std::size_t num_chosen = rows_of_fraction(fraction, rows.size());
  if (num_chosen == 0) return one_pass_run({});
  return question_first_run({.first_layer = first_layer, .end_layer = request.num_layers},
                            [num_chosen, rows = std::move(rows)](std::span<const float> attention) {
                              return one_pass_run(top_rows(attention, rows, num_chosen));
                            });
}

}  // namespace pikv::detail
