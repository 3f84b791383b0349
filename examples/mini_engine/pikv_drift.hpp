// The rows of a repaired pass in the words of pikv's drift correction: which rows of each chunk show what it has
// drifted, and which are moved by it. Part of the bridge.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/probe_memory.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

/// One pass's rows, grouped by chunk and uploaded once for all layers.
class DriftRows {
 public:
  /// rows: of the pass, ascending. repaired: those among them that are of cached pieces; the others of approximate
  /// pieces that `settled`, ascending, does not name are moved.
  DriftRows(const pikv::CompositionPlan& plan, std::span<const std::int32_t> rows,
            std::span<const std::int32_t> repaired, std::span<const std::int32_t> settled, const Sequence& sequence,
            const ProbeMemory& memory);

  /// Of one layer; `fresh`: the pass's rows as projected.
  [[nodiscard]] pikv::DriftCorrection correction(const pikv::KvGeometry& geometry, int layer,
                                                 const pikv::ConstKvView& fresh, const pikv::KvView& cached) const;

 private:
  std::vector<std::int32_t> samples_, sample_offsets_{0};  // rows of the prompt
  std::vector<std::int32_t> targets_, target_offsets_{0};
  std::vector<pikv::Slot> fresh_;  // indices of the samples in the pass
  pikv::Buffer sample_rows_, sample_offsets_there_, target_rows_, target_offsets_there_, fresh_slots_, row_slots_;
  std::int64_t num_rows_;  // of the prompt
};

}  // namespace mini_engine
