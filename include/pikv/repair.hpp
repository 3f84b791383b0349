// Repair: which rows of reused chunks are computed anew, because a chunk encoded elsewhere never saw what now stands
// before it.
//
// A policy knows a plan and what is measured while the engine computes; it touches no memory and runs nothing. For each
// request it begins a run, which asks for one pass after another. Every pass computes some approximate rows and, in the
// same batch, all rows that the plan computes anyway (the question among them); K and V replace the cached ones in
// pages private to the request, and later rows see them. What a pass probes comes back through on_scores(), at the
// layer, where the run may also let rows go: they keep the K and V they have by then and are computed no further. What
// the question attends to is added up over layers and comes back through on_attention() once the pass is through, so
// that a device is not waited for layer by layer.
//
//   const std::unique_ptr<pikv::RepairPolicy> policy = pikv::make_repair_policy("first:16").value();
//   const std::unique_ptr<pikv::RepairRun> run = policy->begin({.plan = composition.plan(), .num_layers = 32}).value();
//   while (std::optional<pikv::RepairPass> pass = run->next()) {
//     // the engine computes pass->rows and the plan's rows_to_compute(), and measures what the pass asks for; its
//     // logits count unless another pass follows
//   }
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pikv/plan.hpp"
#include "pikv/status.hpp"

namespace pikv {
inline namespace v0 {

/// What can be asked of one layer of a pass.
enum class RepairSignal : std::uint8_t {
  kDeviation,  ///< of the pass's repaired rows: DeviationScoring with the probe's weights
  kNone,       ///< nothing: the run is asked, with empty scores, which rows go on
};

/// Measured before the rows' K and V of that layer replace the cached ones.
struct RepairProbe {
  std::int32_t layer = 0;
  RepairSignal signal = RepairSignal::kDeviation;
  float key_weight = 0.0F;  ///< of kDeviation
  float value_weight = 1.0F;
};

/// The attention that a pass measures: of every row of the prompt, what the question pays to it, mean over the
/// question's rows, heads and layers [first_layer, end_layer) (AttentionScoring::key_scores). The question: the plan's
/// fresh rows behind the last cached one.
struct RepairAttention {
  enum class From : std::uint8_t {
    kQuestion,
    kQuestionAndAnswer,  ///< and, added to it, the same of the prompt's last row alone, which the answer begins behind
  };
  std::int32_t first_layer = 0;
  std::int32_t end_layer = 0;  ///< first_layer: nothing is measured
  From from = From::kQuestion;

  [[nodiscard]] constexpr std::int32_t num_layers() const noexcept { return end_layer - first_layer; }
};

struct RepairPass {
  /// Approximate rows of the plan, ascending; may be empty.
  std::vector<std::int32_t> rows;
  /// Ascending by layer, at most one a layer.
  std::vector<RepairProbe> probes;
  RepairAttention attention{};
  /// Whether, and how far, the approximate rows beside them are moved by what the pass's repaired rows have drifted
  /// (DriftCorrector): in every layer, before attention sees them. Rows that an earlier pass repaired stay. Not in a
  /// run's first pass, during which rows may still be on their way.
  float key_drift_gain = 0.0F;
  float value_drift_gain = 0.0F;

  [[nodiscard]] bool measures() const noexcept { return !probes.empty() || attention.num_layers() > 0; }
  [[nodiscard]] bool moves_rows() const noexcept {
    return !rows.empty() && (key_drift_gain > 0 || value_drift_gain > 0);
  }
};

/// One request's repair. One thread at a time. Deterministic in what it is told.
class RepairRun {
 public:
  virtual ~RepairRun() = default;

  /// The next pass, or nothing when the one before was the last. The first call gives a pass.
  [[nodiscard]] virtual std::optional<RepairPass> next() = 0;

  /// What a probe of the pass measured. scores: [num_rows] of the prompt, host memory; NaN for rows that were not
  /// measured; empty for kNone. Returns the repaired rows that go on beyond this layer, ascending, of those that are
  /// still computed; nothing: all of them.
  virtual std::optional<std::vector<std::int32_t>> on_scores(const RepairProbe& probe, std::span<const float> scores) {
    (void)probe, (void)scores;
    return std::nullopt;
  }

  /// What a pass that measures attention has measured, once it is through. attention: [num_rows] of the prompt, host
  /// memory; NaN throughout for a prompt without a question.
  virtual void on_attention(std::span<const float> attention) { (void)attention; }

  /// The logits of the prompt's last row, [V], host memory, after each pass.
  virtual void on_logits(std::span<const float> logits) { (void)logits; }

  /// Whether on_logits() wants to be called: the engine then brings logits to the host.
  [[nodiscard]] virtual bool wants_logits() const { return false; }
};

/// What a run is begun with. The plan must outlive the run.
struct RepairRequest {
  const CompositionPlan& plan;
  std::int32_t num_layers = 0;  ///< of the model
};

/// Thread-safety: const members may be called from several threads.
class RepairPolicy {
 public:
  virtual ~RepairPolicy() = default;
  /// As make_repair_policy() takes it.
  [[nodiscard]] virtual std::string name() const = 0;
  /// Whether all its runs take one pass and measure nothing, so that their rows are known before anything is computed.
  /// Only such a policy goes with a batch of requests that share their passes.
  [[nodiscard]] virtual bool knows_rows_ahead() const { return false; }
  /// Errors: kInvalidArgument for a model with too few layers for the policy.
  [[nodiscard]] virtual Result<std::unique_ptr<RepairRun>> begin(const RepairRequest& request) const = 0;
};

}  // namespace v0
}  // namespace pikv
