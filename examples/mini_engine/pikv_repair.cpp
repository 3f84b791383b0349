#include "mini_engine/pikv_repair.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_drift.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/pikv_views.hpp"
#include "mini_engine/probe_memory.hpp"
#include "mini_engine/question_attention.hpp"

namespace mini_engine {
namespace {

/// The rows behind everything that is cached. They are all computed.
std::span<const std::int32_t> question_rows(const pikv::CompositionPlan& plan) {
  std::int64_t first = 0;
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    if (piece.cached()) first = piece.row_end;
  }
  return plan.rows_to_compute().last(static_cast<std::size_t>(plan.num_rows() - first));
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
        inner_(inner) {}

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
      if (attention_) run_->on_attention(attention_->mean());
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
    for (const pikv::RepairProbe& probe : pass_.probes) {
      if (probe.layer == layer) ask(probe, rows);
    }
    keep_.reset();
    if (pass_.moves_rows()) correct_drift(layer, rows);
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
    if (!attention_ || !attention_->measures(layer)) return;
    attention_->add({.geometry = geometry(),
                     .num_query_heads = model_->num_heads,
                     .layer = layer,
                     .keys = pikv::as_const(cache_view(sequence_.cache())),
                     .key_slots = row_slots()},
                    queries);
  }

 private:
  void begin_pass(pikv::RepairPass pass) {
    pass_ = std::move(pass);
    if (pass_.moves_rows() && cost_.num_passes == 0) {
      throw Error("repair: the policy '" + policy_.name() +
                  "' moves rows in its first pass, which may still be on their way");
    }
    going_on_.reset();
    keep_.reset();
    rows_.clear();
    std::set_union(pass_.rows.begin(), pass_.rows.end(), plan_.rows_to_compute().begin(), plan_.rows_to_compute().end(),
                   std::back_inserter(rows_));
    computed_ = pass_.rows;
    drift_rows_.reset();
    attention_.reset();
    if (pass_.attention.num_layers() > 0) {
      attention_.emplace(pass_.attention, question_rows(plan_), plan_.num_rows(), device_.scorer, memory_,
                         device_.stream);
    }
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
    const bool is_watched = inner_ != nullptr || pass_.measures() || pass_.moves_rows();
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

  void ask(const pikv::RepairProbe& probe, const ProjectedRows& rows) {
    const bool measures = probe.signal == pikv::RepairSignal::kDeviation;
    const std::vector<float> scores = measures ? deviation(probe, rows) : std::vector<float>{};
    if (auto go_on = run_->on_scores(probe, scores)) going_on_ = std::move(go_on);
  }

  /// Of the prompt's rows in the cache; the sequence has them all once a pass has begun.
  [[nodiscard]] pikv::SlotMap row_slots() {
    if (!row_slots_) row_slots_ = memory_.upload(sequence_.slots());
    return slots_of(*row_slots_, sequence_.slots().size());
  }

  /// Before the pass's own K and V replace the cached ones that they are compared with.
  void correct_drift(int layer, const ProjectedRows& rows) {
    const pikv::KvView cached = cache_view(sequence_.cache());
    if (!drift_rows_) {
      std::vector<std::int32_t> settled;
      std::set_union(repaired_.begin(), repaired_.end(), pass_.rows.begin(), pass_.rows.end(),
                     std::back_inserter(settled));
      drift_rows_.emplace(plan_, rows.rows, computed_, settled, memory_);
      pikv::DriftWeighing weighing = drift_rows_->weighing(geometry(), cached, row_slots());
      weighing.rope = device_.table.view();
      check(device_.corrector.weigh_async(weighing, device_.stream));
    }
    const pikv::ConstKvView fresh = projected_view(rows, model_->head_dim, device_.backend.caps().space);
    pikv::DriftCorrection correction = drift_rows_->correction(geometry(), layer, fresh, cached, row_slots());
    correction.rope = device_.table.view();
    correction.key_gain = pass_.key_drift_gain;
    correction.value_gain = pass_.value_drift_gain;
    check(device_.corrector.correct_async(correction, device_.stream));
  }

  [[nodiscard]] std::vector<float> deviation(const pikv::RepairProbe& probe, const ProjectedRows& rows) const {
    std::vector<float> scores(static_cast<std::size_t>(plan_.num_rows()), std::numeric_limits<float>::quiet_NaN());
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
    const pikv::Buffer fresh_slots = memory_.upload(fresh);
    const pikv::Buffer cached_slots = memory_.upload(cached);
    const pikv::Buffer at = memory_.upload(positions);
    pikv::Buffer measured = memory_.upload(std::vector<float>(count));
    check(device_.scorer.add_deviation_async(
        {.geometry = geometry(),
         .layer = probe.layer,
         .fresh = projected_view(rows, model_->head_dim, device_.backend.caps().space),
         .fresh_slots = slots_of(fresh_slots, count),
         .cached = pikv::as_const(cache_view(sequence_.cache())),
         .cached_slots = slots_of(cached_slots, count),
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

  [[nodiscard]] pikv::KvGeometry geometry() const {
    return kv_geometry(*model_, dtype_of(sequence_.cache().precision()));
  }

  const pikv::RepairPolicy& policy_;
  const pikv::CompositionPlan& plan_;
  Sequence& sequence_;
  ProbeDevice device_;
  ProbeMemory memory_;
  PassObserver* inner_;
  std::optional<pikv::Buffer> row_slots_{};
  const ModelConfig* model_ = nullptr;
  std::unique_ptr<pikv::RepairRun> run_;
  pikv::RepairPass pass_;
  std::vector<std::int32_t> rows_;                       // of the pass
  std::optional<std::vector<std::int32_t>> going_on_{};  // of the repaired rows, from the next chance on
  std::optional<std::vector<std::int32_t>> keep_{};      // the same as indices, with all other rows
  std::vector<std::int32_t> computed_;                   // of the repaired rows, those that have not been let go
  std::optional<QuestionAttention> attention_{};         // of a pass that measures it
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
  if (!pass || pass->measures() || pass->moves_rows() || run->next()) {
    throw Error("repair: the policy '" + policy.name() +
                "' says that it knows its rows ahead, and measures or comes back");
  }
  return std::move(pass->rows);
}

}  // namespace mini_engine
