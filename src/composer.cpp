#include "pikv/composer.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "detail/composition_access.hpp"

namespace pikv {
inline namespace v0 {
namespace {

std::span<const TokenId> chunk_tokens(const CompositionPlan& plan, const PlanPiece& piece) {
  return plan.tokens().subspan(static_cast<std::size_t>(piece.row_begin - piece.chunk_first_token),
                               static_cast<std::size_t>(piece.chunk_num_tokens));
}

/// The chunk that a piece names, pinned: from the look-up that planned it, or looked up now.
ChunkHandle load_piece(Store& store, const CompositionPlan& plan, const PlanPiece& piece, const Lookup* planned,
                       MissReason& reason) {
  if (planned != nullptr && planned->state == LookupState::kHit) return planned->chunk;
  if (planned != nullptr && planned->state == LookupState::kPending) return planned->ticket.wait(&reason);
  const Lookup found = store.acquire(piece.key, chunk_tokens(plan, piece));
  reason = found.reason;
  return found.chunk;
}

/// Look-ups may have been handed over by a caller, so they are not believed.
bool is_the_chunk(const Chunk& chunk, const KvGeometry& geometry, const CompositionPlan& plan, const PlanPiece& piece) {
  return chunk.key() == piece.key && chunk.geometry() == geometry &&
         std::ranges::equal(chunk.tokens(), chunk_tokens(plan, piece));
}

/// What has to hold before a map may be sliced; the backend checks the slices.
Status check_rows(const SlotMap& rows, std::int64_t num_rows) {
  if (rows.num_tokens() != num_rows) {
    return invalid_argument("composition: slots for " + std::to_string(rows.num_tokens()) + " rows, the plan has " +
                            std::to_string(num_rows));
  }
  if (rows.kind() == SlotMap::Kind::kPerToken && rows.slots() == nullptr) {
    return invalid_argument("composition: the array of slots is null");
  }
  if (rows.first() < 0 || rows.first() > std::numeric_limits<std::int64_t>::max() - num_rows) {
    return invalid_argument("composition: slots begin at " + std::to_string(rows.first()));
  }
  return Status();
}

}  // namespace

Result<Composer> Composer::create(Store& store, Backend& backend, const ChunkKeyer& keyer, RopeTable table,
                                  const ComposerOptions& options) {
  const KvGeometry& geometry = keyer.geometry();
  if (!(geometry == store.geometry())) {
    return invalid_argument("composer: keyer and store have different geometries");
  }
  if (table.view().half_dim * 2 != geometry.rotary_dim) {
    return invalid_argument("composer: the table turns " + std::to_string(table.view().half_dim * 2) +
                            " channels, the geometry says " + std::to_string(geometry.rotary_dim));
  }
  if (table.view().pairing != keyer.rope().pairing) {
    return invalid_argument("composer: table and keyer pair channels differently");
  }
  if (options.prefix_block_tokens < 1) {
    return invalid_argument("composer: prefix_block_tokens is " + std::to_string(options.prefix_block_tokens));
  }
  return Composer(store, backend, keyer, std::move(table), options);
}

Result<Composition> Composer::load(PlannedPrompt planned) const {
  const std::span<const PlanPiece> pieces = planned.plan.pieces();
  if (!planned.lookups.empty() && planned.lookups.size() != pieces.size()) {
    return invalid_argument("compose: " + std::to_string(planned.lookups.size()) + " look-ups for " +
                            std::to_string(pieces.size()) + " pieces");
  }
  std::vector<ChunkHandle> chunks(pieces.size());
  std::vector<std::size_t> lost;
  std::vector<MissReason> reasons;
  std::vector<std::size_t> lossy;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].cached()) continue;
    MissReason reason = MissReason::kNotFound;
    const Lookup* lookup = planned.lookups.empty() ? nullptr : &planned.lookups[i];
    chunks[i] = load_piece(*store_, planned.plan, pieces[i], lookup, reason);
    if (chunks[i] != nullptr) {
      if (is_the_chunk(*chunks[i], keyer_->geometry(), planned.plan, pieces[i])) {
        if (chunks[i]->is_lossy()) lossy.push_back(i);
        continue;
      }
      reason = MissReason::kTokensDiffer;
      chunks[i] = nullptr;
    }
    lost.push_back(i);
    reasons.push_back(reason);
  }
  if (!lost.empty()) {
    Result<CompositionPlan> degraded = planned.plan.without(lost, reasons);
    if (!degraded.ok()) return degraded.status();
    planned.plan = std::move(*degraded);
  }
  if (!lossy.empty()) {
    Result<CompositionPlan> honest = planned.plan.with_approximate(lossy);
    if (!honest.ok()) return honest.status();
    planned.plan = std::move(*honest);
  }
  return Composition(std::move(planned.plan), std::move(chunks), keyer_->geometry(), *backend_, table_);
}

Result<Composition> Composer::compose(const Prompt& prompt) const {
  Result<PlannedPrompt> planned = plan(prompt);
  if (!planned.ok()) return planned.status();
  return load(std::move(*planned));
}

Status Composition::place_layers(std::int32_t layer_begin, std::int32_t layer_end, const KvView& target,
                                 const SlotMap& rows, StreamRef stream) const {
  const Result<std::vector<KvRun>> runs = detail::CompositionAccess::runs(*this, rows);
  if (!runs.ok()) return runs.status();
  return backend_->reanchor_async(KvTransfer{.geometry = geometry_,
                                             .runs = *runs,
                                             .target = target,
                                             .rope = table_.view(),
                                             .layer_begin = layer_begin,
                                             .layer_end = layer_end},
                                  stream);
}

Status Composition::place_layer_async(std::int32_t layer, const KvView& target, const SlotMap& rows,
                                      StreamRef stream) const {
  if (layer < 0 || layer >= geometry_.num_layers) {
    return invalid_argument("composition: layer " + std::to_string(layer) + " of " +
                            std::to_string(geometry_.num_layers));
  }
  return place_layers(layer, layer + 1, target, rows, stream);
}

Status Composition::place_async(const KvView& target, const SlotMap& rows, StreamRef stream) const {
  return place_layers(0, geometry_.num_layers, target, rows, stream);
}

}  // namespace v0

Result<std::vector<KvRun>> detail::CompositionAccess::runs(const Composition& composition, const SlotMap& rows) {
  PIKV_TRY(check_rows(rows, composition.plan_.num_rows()));
  std::vector<KvRun> runs;
  for (std::size_t i = 0; i < composition.chunks_.size(); ++i) {
    if (composition.chunks_[i] == nullptr) continue;
    const PlanPiece& piece = composition.plan_.pieces()[i];
    runs.push_back(KvRun{.source = {},
                         .slab = composition.chunks_[i]->slab_view(),
                         .source_slots = SlotMap::consecutive(piece.chunk_first_token, piece.num_rows()),
                         .target_slots = rows.slice(piece.row_begin, piece.num_rows()),
                         .positions = PositionMap::consecutive(piece.first_position)});
  }
  return runs;
}

}  // namespace pikv
