// The rows of a repaired pass in the words of pikv's drift correction: which rows show what has drifted, and which are
// moved by it. Part of the bridge.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/probe_memory.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

/// One pass's rows, uploaded once for all layers, and how much each takes over from the others.
class DriftRows {
 public:
  /// rows: of the pass, ascending. repaired: those among them that are of cached pieces; the others of approximate
  /// pieces that `settled`, ascending, does not name are moved. Of more repaired rows than kMaxDriftSamples only some
  /// are samples, evenly spread.
  DriftRows(const pikv::CompositionPlan& plan, std::span<const std::int32_t> rows,
            std::span<const std::int32_t> repaired, std::span<const std::int32_t> settled, const ProbeMemory& memory);

  /// To be done once, before any correction. row_slots: of the prompt's rows in `cached`. rope: to be filled in.
  [[nodiscard]] pikv::DriftWeighing weighing(const pikv::KvGeometry& geometry, const pikv::KvView& cached,
                                             const pikv::SlotMap& row_slots);
  /// Of one layer; `fresh`: the pass's rows as projected. rope and gains: to be filled in.
  [[nodiscard]] pikv::DriftCorrection correction(const pikv::KvGeometry& geometry, int layer,
                                                 const pikv::ConstKvView& fresh, const pikv::KvView& cached,
                                                 const pikv::SlotMap& row_slots) const;

 private:
  [[nodiscard]] std::size_t num_weights() const { return (targets_.size() + samples_.size()) * samples_.size(); }

  std::vector<std::int32_t> samples_, targets_;  // rows of the prompt
  std::vector<pikv::Slot> fresh_;                // indices of the samples in the pass
  pikv::Buffer sample_rows_, target_rows_, sample_chunks_, target_chunks_, fresh_slots_;
  pikv::Buffer weights_;  // [targets + samples][samples]
};

}  // namespace mini_engine
