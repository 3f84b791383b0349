#include "mini_engine/pikv_drift.hpp"

#include <algorithm>

namespace mini_engine {
namespace {

bool contains(std::span<const std::int32_t> ascending, std::int32_t row) {
  return std::binary_search(ascending.begin(), ascending.end(), row);
}

/// Whether the i-th of so many repaired rows is a sample: all are, or as many as there may be, evenly spread.
bool is_sample(std::size_t i, std::size_t count) {
  constexpr std::size_t kMost = pikv::kMaxDriftSamples;
  return count <= kMost || (i + 1) * kMost / count > i * kMost / count;
}

}  // namespace

DriftRows::DriftRows(const pikv::CompositionPlan& plan, std::span<const std::int32_t> rows,
                     std::span<const std::int32_t> repaired, std::span<const std::int32_t> settled,
                     const ProbeMemory& memory) {
  std::vector<std::int32_t> sample_chunks;
  std::vector<std::int32_t> target_chunks;
  std::size_t num_repaired = 0;
  std::int32_t chunk = 0;
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    // What an exact prefix lost to a lossy format has not drifted.
    if (piece.source != pikv::PlanPiece::Source::kChunk || piece.provenance != pikv::Provenance::kApproximate) continue;
    ++chunk;
    for (auto row = static_cast<std::int32_t>(piece.row_begin); row < piece.row_end; ++row) {
      if (contains(repaired, row)) {
        if (!is_sample(num_repaired++, repaired.size())) continue;
        samples_.push_back(row);
        sample_chunks.push_back(chunk);
        fresh_.push_back(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
      } else if (!contains(settled, row)) {
        targets_.push_back(row);
        target_chunks.push_back(chunk);
      }
    }
  }
  sample_rows_ = memory.upload(samples_);
  target_rows_ = memory.upload(targets_);
  sample_chunks_ = memory.upload(sample_chunks);
  target_chunks_ = memory.upload(target_chunks);
  fresh_slots_ = memory.upload(fresh_);
  weights_ = memory.allocate<float>(num_weights());
}

pikv::DriftWeighing DriftRows::weighing(const pikv::KvGeometry& geometry, const pikv::KvView& cached,
                                        const pikv::SlotMap& row_slots) {
  return {.geometry = geometry,
          .layer = pikv::drift_layer(geometry.num_layers),
          .cached = pikv::as_const(cached),
          .row_slots = row_slots,
          .sample_rows = elements<std::int32_t>(sample_rows_, samples_.size()),
          .target_rows = elements<std::int32_t>(target_rows_, targets_.size()),
          .sample_chunks = elements<std::int32_t>(sample_chunks_, samples_.size()),
          .target_chunks = elements<std::int32_t>(target_chunks_, targets_.size()),
          .weights = scores_of(weights_, num_weights())};
}

pikv::DriftCorrection DriftRows::correction(const pikv::KvGeometry& geometry, int layer, const pikv::ConstKvView& fresh,
                                            const pikv::KvView& cached, const pikv::SlotMap& row_slots) const {
  return {.geometry = geometry,
          .layer = layer,
          .fresh = fresh,
          .fresh_slots = slots_of(fresh_slots_, fresh_.size()),
          .cached = cached,
          .row_slots = row_slots,
          .sample_rows = elements<std::int32_t>(sample_rows_, samples_.size()),
          .target_rows = elements<std::int32_t>(target_rows_, targets_.size()),
          .weights = elements<float>(weights_, num_weights())};
}

}  // namespace mini_engine
