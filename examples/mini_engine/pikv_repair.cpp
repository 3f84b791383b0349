#include "mini_engine/pikv_repair.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_drift.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/pikv_views.hpp"
#include "mini_engine/probe_memory.hpp"

namespace mini_engine {
namespace {

/// The first row behind everything that is cached.
std::int32_t first_question_row(const pikv::CompositionPlan& plan) {
  std::int64_t first = 0;
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    if (piece.cached()) first = piece.row_end;
  }
  return static_cast<std::int32_t>(first);
}

std::unique_ptr<pikv::RepairRun> begin(const pikv::RepairPolicy& policy, const pikv::CompositionPlan& plan,
                                       int num_layers) {
  return take(policy.begin({.plan = plan, .num_layers = num_layers}));
}

}  // namespace

class RepairPasses::Observer final : public PassObserver {
 public:
  Observer(const pikv::RepairPolicy& policy, const pikv::CompositionPlan& plan, Sequence& sequence,
           const ProbeDevice& device, PassObserver* inner)
      : policy_(policy),
        plan_(plan),
        sequence_(sequence),
        device_(device),
        memory_(device_.backend, device_.stream),
        inner_(inner),
        question_(first_question_row(plan)) {}

  std::vector<float> run(Model& model) {
    model_ = &model.config();
    const int num_layers = model_->num_layers;
    run_ = begin(policy_, plan_, num_layers);
    std::vector<float> logits;
    cost_ = {.num_passes = 0};
    while (std::optional<pikv::RepairPass> pass = run_->next()) {
      begin_pass(std::move(*pass));
      logits = compute(model);
      end_pass();
      if (run_->wants_logits()) run_->on_logits(logits);
      inner_ = nullptr;  // it has seen what it had to see
      ++cost_.num_passes;
    }
    if (cost_.num_passes == 0) throw Error("repair: the policy '" + policy_.name() + "' asks for no pass");
    cost_.row_layers -= static_cast<std::int64_t>(plan_.rows_to_compute().size()) * num_layers;
    return logits;
  }

  [[nodiscard]] const RepairCost& cost() const { return cost_; }
  [[nodiscard]] const std::vector<std::int32_t>& repaired_rows() const { return repaired_; }

  void before_layer(int layer) override {
    if (inner_ != nullptr) inner_->before_layer(layer);
  }

  void on_projected(int layer, const ProjectedRows& rows) override {
    if (inner_ != nullptr) inner_->on_projected(layer, rows);
    cost_.row_layers += rows.num_rows;
    const pikv::RepairProbe* const probe = probe_of(layer, pikv::RepairSignal::kDeviation);
    if (probe != nullptr) tell(*probe, deviation(*probe, rows));
    const pikv::RepairProbe* const question = probe_of(layer, pikv::RepairSignal::kNone);
    if (question != nullptr) tell(*question, {});
    keep_.reset();
    if (corrects_drift()) correct_drift(layer, rows);
    if (!going_on_) return;
    std::vector<std::int32_t> keep;
    for (std::size_t i = 0; i < rows.rows.size(); ++i) {
      const std::int32_t row = rows.rows[i];
      const bool is_repaired = std::binary_search(pass_.rows.begin(), pass_.rows.end(), row);
      if (!is_repaired || std::binary_search(going_on_->begin(), going_on_->end(), row)) {
        keep.push_back(static_cast<std::int32_t>(i));
      }
    }
    computed_ = std::move(*going_on_);
    going_on_.reset();
    drift_rows_.reset();
    if (keep.size() < rows.rows.size()) keep_ = std::move(keep);
  }

  std::optional<std::vector<std::int32_t>> rows_that_go_on(int layer) override {
    (void)layer;
    return std::exchange(keep_, std::nullopt);
  }

  void on_queries(int layer, const TurnedQueries& queries) override {
    for (const auto& [signal, first_row] : {std::pair{pikv::RepairSignal::kQuestionAttention, question_},
                                            std::pair{pikv::RepairSignal::kAnswerAttention, rows_.back()}}) {
      const pikv::RepairProbe* const probe = probe_of(layer, signal);
      if (probe != nullptr) tell(*probe, attention_of(first_row, layer, queries));
    }
  }

 private:
  void begin_pass(pikv::RepairPass pass) {
    pass_ = std::move(pass);
    going_on_.reset();
    keep_.reset();
    rows_.clear();
    std::set_union(pass_.rows.begin(), pass_.rows.end(), plan_.rows_to_compute().begin(), plan_.rows_to_compute().end(),
                   std::back_inserter(rows_));
    computed_ = pass_.rows;
    drift_rows_.reset();
  }

  void end_pass() {
    std::vector<std::int32_t> all;
    std::set_union(repaired_.begin(), repaired_.end(), computed_.begin(), computed_.end(), std::back_inserter(all));
    repaired_ = std::move(all);
  }

  std::vector<float> compute(Model& model) {
    std::vector<TokenId> tokens;
    tokens.reserve(rows_.size());
    for (const std::int32_t row : rows_) tokens.push_back(plan_.tokens()[static_cast<std::size_t>(row)]);
    const auto last = static_cast<std::int32_t>(rows_.size() - 1);
    const bool is_watched = inner_ != nullptr || !pass_.probes.empty() || corrects_drift();
    if (!is_watched) {  // nobody looks on, so that a model may compute it as one graph
      cost_.row_layers += static_cast<std::int64_t>(rows_.size()) * model_->num_layers;
    }
    return model.forward(Pass{.tokens = tokens,
                              .rows = rows_,
                              .logit_rows = {&last, 1},
                              .documents = {},
                              .observer = is_watched ? this : nullptr},
                         sequence_);
  }

  [[nodiscard]] const pikv::RepairProbe* probe_of(int layer, pikv::RepairSignal signal) const {
    for (const pikv::RepairProbe& probe : pass_.probes) {
      if (probe.layer == layer && probe.signal == signal) return &probe;
    }
    return nullptr;
  }

  void tell(const pikv::RepairProbe& probe, const std::vector<float>& scores) {
    if (auto rows = run_->on_scores(probe, scores)) going_on_ = std::move(rows);
  }

  [[nodiscard]] bool corrects_drift() const {
    return !pass_.rows.empty() && (pass_.key_drift_gain > 0 || pass_.value_drift_gain > 0);
  }

  /// Before the pass's own K and V replace the cached ones that they are compared with.
  void correct_drift(int layer, const ProjectedRows& rows) {
    if (!drift_rows_) {
      std::vector<std::int32_t> settled;
      std::set_union(repaired_.begin(), repaired_.end(), pass_.rows.begin(), pass_.rows.end(),
                     std::back_inserter(settled));
      drift_rows_.emplace(plan_, rows.rows, computed_, settled, sequence_, memory_);
    }
    const pikv::ConstKvView fresh = projected_view(rows, model_->head_dim, device_.backend.caps().space);
    pikv::DriftCorrection correction = drift_rows_->correction(geometry(), layer, fresh, cache_view(sequence_.cache()));
    correction.rope = device_.table.view();
    correction.key_gain = pass_.key_drift_gain;
    correction.value_gain = pass_.value_drift_gain;
    check(device_.corrector.correct_async(correction, device_.stream));
  }

  [[nodiscard]] std::vector<float> no_scores() const {
    return std::vector<float>(static_cast<std::size_t>(plan_.num_rows()), std::numeric_limits<float>::quiet_NaN());
  }

  [[nodiscard]] std::vector<float> deviation(const pikv::RepairProbe& probe, const ProjectedRows& rows) const {
    std::vector<float> scores = no_scores();
    std::vector<pikv::Slot> fresh;
    std::vector<pikv::Slot> cached;
    std::vector<pikv::Position> positions;
    for (std::size_t i = 0; i < rows.rows.size(); ++i) {
      const std::int32_t row = rows.rows[i];
      if (!std::binary_search(pass_.rows.begin(), pass_.rows.end(), row)) continue;
      fresh.push_back(static_cast<pikv::Slot>(i));
      cached.push_back(sequence_.slots()[static_cast<std::size_t>(row)]);
      positions.push_back(row);
    }
    const std::size_t count = positions.size();
    if (count == 0) return scores;
    const auto num_tokens = static_cast<std::int64_t>(count);
    const pikv::Buffer fresh_slots = memory_.upload(fresh);
    const pikv::Buffer cached_slots = memory_.upload(cached);
    const pikv::Buffer at = memory_.upload(positions);
    pikv::Buffer measured = memory_.upload(std::vector<float>(count));
    const auto slot_map = [num_tokens](const pikv::Buffer& slots) {
      return pikv::SlotMap::per_token(reinterpret_cast<const pikv::Slot*>(slots.data()), num_tokens);
    };
    check(device_.scorer.add_deviation_async(
        {.geometry = geometry(),
         .layer = probe.layer,
         .fresh = projected_view(rows, model_->head_dim, device_.backend.caps().space),
         .fresh_slots = slot_map(fresh_slots),
         .cached = pikv::as_const(cache_view(sequence_.cache())),
         .cached_slots = slot_map(cached_slots),
         .positions = pikv::PositionMap::per_token(reinterpret_cast<const pikv::Position*>(at.data())),
         .rope = device_.table.view(),
         .key_weight = probe.key_weight,
         .value_weight = probe.value_weight,
         .scores = scores_of(measured, count)},
        device_.stream));
    const std::vector<float> values = memory_.download(measured, count);
    for (std::size_t i = 0; i < count; ++i) scores[static_cast<std::size_t>(positions[i])] = values[i];
    return scores;
  }

  /// That rows from first_row on pay to each row of the prompt, on average.
  [[nodiscard]] std::vector<float> attention_of(std::int32_t first_row, int layer, const TurnedQueries& queries) const {
    const auto first = std::lower_bound(queries.rows.begin(), queries.rows.end(), first_row);
    const std::vector<std::int32_t> rows(first, queries.rows.end());
    if (rows.empty()) return no_scores();
    const auto count = static_cast<std::size_t>(plan_.num_rows());
    const std::int64_t skipped = (first - queries.rows.begin()) * queries.row_stride;
    const pikv::DType dtype = dtype_of(queries.precision);
    const pikv::Buffer slots = memory_.upload(sequence_.slots());
    const pikv::Buffer query_rows = memory_.upload(rows);
    pikv::Buffer measured = memory_.upload(std::vector<float>(count));
    check(device_.scorer.add_attention_async(
        {.geometry = geometry(),
         .num_query_heads = model_->num_heads,
         .layer = layer,
         .keys = pikv::as_const(cache_view(sequence_.cache())),
         .key_slots = pikv::SlotMap::per_token(reinterpret_cast<const pikv::Slot*>(slots.data()), plan_.num_rows()),
         .queries = static_cast<const std::byte*>(queries.data) + skipped * pikv::dtype_bytes(dtype),
         .query_dtype = dtype,
         .query_stride = queries.row_stride,
         .query_rows = elements<std::int32_t>(query_rows, rows.size()),
         .key_scores = scores_of(measured, count)},
        device_.stream));
    std::vector<float> scores = memory_.download(measured, count);
    for (float& score : scores) score /= static_cast<float>(rows.size());
    return scores;
  }

  [[nodiscard]] pikv::KvGeometry geometry() const {
    return kv_geometry(*model_, dtype_of(sequence_.cache().precision()));
  }

  const pikv::RepairPolicy& policy_;
  const pikv::CompositionPlan& plan_;
  Sequence& sequence_;
  ProbeDevice device_;
  ProbeMemory memory_;
  PassObserver* inner_;
  std::int32_t question_;
  const ModelConfig* model_ = nullptr;
  std::unique_ptr<pikv::RepairRun> run_;
  pikv::RepairPass pass_;
  std::vector<std::int32_t> rows_;                       // of the pass
  std::optional<std::vector<std::int32_t>> going_on_{};  // of the repaired rows, from the next chance on
  std::optional<std::vector<std::int32_t>> keep_{};      // the same as indices, with all other rows
  std::vector<std::int32_t> computed_;                   // of the repaired rows, those that have not been let go
  std::optional<DriftRows> drift_rows_{};                // of the rows that are computed now
  std::vector<std::int32_t> repaired_;                   // by the passes before
  RepairCost cost_;
};

RepairPasses::RepairPasses(const pikv::RepairPolicy& policy, const pikv::CompositionPlan& plan, Sequence& sequence,
                           const ProbeDevice& device, PassObserver* inner)
    : observer_(std::make_unique<Observer>(policy, plan, sequence, device, inner)) {}
RepairPasses::~RepairPasses() = default;

std::vector<float> RepairPasses::run(Model& model) { return observer_->run(model); }
const RepairCost& RepairPasses::cost() const { return observer_->cost(); }
const std::vector<std::int32_t>& RepairPasses::repaired_rows() const { return observer_->repaired_rows(); }

void check_knows_rows_ahead(const pikv::RepairPolicy& policy) {
  if (policy.knows_rows_ahead()) return;
  throw Error("repair: the policy '" + policy.name() +
              "' chooses rows while it computes, which only a request served on its own can do");
}

std::vector<std::int32_t> rows_known_ahead(const pikv::RepairPolicy& policy, const pikv::CompositionPlan& plan,
                                           int num_layers) {
  check_knows_rows_ahead(policy);
  const std::unique_ptr<pikv::RepairRun> run = begin(policy, plan, num_layers);
  std::optional<pikv::RepairPass> pass = run->next();
  if (!pass || !pass->probes.empty() || run->next()) {
    throw Error("repair: the policy '" + policy.name() +
                "' says that it knows its rows ahead, and measures or comes back");
  }
  return std::move(pass->rows);
}

}  // namespace mini_engine
