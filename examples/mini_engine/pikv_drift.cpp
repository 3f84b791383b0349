#include "mini_engine/pikv_drift.hpp"

#include <algorithm>

namespace mini_engine {
namespace {

bool contains(std::span<const std::int32_t> ascending, std::int32_t row) {
  return std::binary_search(ascending.begin(), ascending.end(), row);
}

}  // namespace

DriftRows::DriftRows(const pikv::CompositionPlan& plan, std::span<const std::int32_t> rows,
                     std::span<const std::int32_t> repaired, std::span<const std::int32_t> settled,
                     const Sequence& sequence, const ProbeMemory& memory)
    : num_rows_(plan.num_rows()) {
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    // What an exact prefix lost to a lossy format has not drifted.
    if (piece.source != pikv::PlanPiece::Source::kChunk || piece.provenance != pikv::Provenance::kApproximate) continue;
    for (auto row = static_cast<std::int32_t>(piece.row_begin); row < piece.row_end; ++row) {
      if (contains(repaired, row)) {
        samples_.push_back(row);
        fresh_.push_back(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
      } else if (!contains(settled, row)) {
        targets_.push_back(row);
      }
    }
    sample_offsets_.push_back(static_cast<std::int32_t>(samples_.size()));
    target_offsets_.push_back(static_cast<std::int32_t>(targets_.size()));
  }
  sample_rows_ = memory.upload(samples_);
  sample_offsets_there_ = memory.upload(sample_offsets_);
  target_rows_ = memory.upload(targets_);
  target_offsets_there_ = memory.upload(target_offsets_);
  fresh_slots_ = memory.upload(fresh_);
  row_slots_ = memory.upload(sequence.slots());
}

pikv::DriftCorrection DriftRows::correction(const pikv::KvGeometry& geometry, int layer, const pikv::ConstKvView& fresh,
                                            const pikv::KvView& cached) const {
  const auto slots = [](const pikv::Buffer& buffer, std::int64_t count) {
    return pikv::SlotMap::per_token(reinterpret_cast<const pikv::Slot*>(buffer.data()), count);
  };
  return {.geometry = geometry,
          .layer = layer,
          .fresh = fresh,
          .fresh_slots = slots(fresh_slots_, static_cast<std::int64_t>(fresh_.size())),
          .cached = cached,
          .row_slots = slots(row_slots_, num_rows_),
          .sample_rows = elements<std::int32_t>(sample_rows_, samples_.size()),
          .sample_offsets = elements<std::int32_t>(sample_offsets_there_, sample_offsets_.size()),
          .target_rows = elements<std::int32_t>(target_rows_, targets_.size()),
          .target_offsets = elements<std::int32_t>(target_offsets_there_, target_offsets_.size())};
}

}  // namespace mini_engine
