// A repair policy's passes on the engine: computes what each asks for, measures its probes where the cache lies, and
// lets rows go when the policy says so. Part of the bridge; nothing else knows both.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

/// What repair took.
struct RepairCost {
  int num_passes = 1;
  /// Rows times layers that were computed beyond those of a single pass over the plan's own rows.
  std::int64_t row_layers = 0;

  /// As rows of the whole model.
  [[nodiscard]] double rows(int num_layers) const {
    return static_cast<double>(row_layers) / static_cast<double>(num_layers);
  }
};

/// Where probes are measured and drift is corrected. All must outlive the passes.
struct ProbeDevice {
  pikv::Backend& backend;
  pikv::RowScorer& scorer;
  pikv::DriftCorrector& corrector;
  pikv::StreamRef stream;
  const pikv::RopeTable& table;  ///< in the backend's memory space
};

/// One request's passes. The plan's cached rows are placed in `sequence`, or are by the time `inner`, which may be null
/// and sees the first pass as it would without repair, is told of a layer. One thread at a time. All arguments must
/// outlive it.
class RepairPasses {
 public:
  RepairPasses(const pikv::RepairPolicy& policy, const pikv::CompositionPlan& plan, Sequence& sequence,
               const ProbeDevice& device, PassObserver* inner);
  ~RepairPasses();

  /// Runs them all; the logits of the prompt's last row [V]. Throws Error as the model and pikv do.
  [[nodiscard]] std::vector<float> run(Model& model);

  [[nodiscard]] const RepairCost& cost() const;
  /// Rows of cached pieces that some pass computed in all layers, ascending.
  [[nodiscard]] const std::vector<std::int32_t>& repaired_rows() const;

 private:
  class Observer;
  std::unique_ptr<Observer> observer_;
};

/// Throws Error for a policy that chooses rows while it computes: requests that share their passes cannot follow it.
void check_knows_rows_ahead(const pikv::RepairPolicy& policy);

/// The rows of a policy that passes check_knows_rows_ahead(). Throws Error for any other, and for one that does not
/// keep to what it says.
[[nodiscard]] std::vector<std::int32_t> rows_known_ahead(const pikv::RepairPolicy& policy,
                                                         const pikv::CompositionPlan& plan, int num_layers);

}  // namespace mini_engine
