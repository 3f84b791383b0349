#include "pikv/capture.hpp"

#include <algorithm>
#include <string>

#include "detail/layers_from.hpp"

namespace pikv {
inline namespace v0 {

Capture::Capture(Backend& backend, const KvGeometry& geometry, std::vector<Entry> entries)
    : backend_(&backend),
      geometry_(geometry),
      entries_(std::move(entries)),
      layers_taken_(static_cast<std::size_t>(geometry.num_layers), false) {}

Result<Capture> Capture::begin(Store& store, Backend& backend, std::span<const CaptureItem> items, StreamRef stream) {
  std::vector<Entry> entries;
  entries.reserve(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const CaptureItem& item = items[i];
    if (item.source_slots.num_tokens() != static_cast<std::int64_t>(item.tokens.size())) {
      return invalid_argument("capture: item " + std::to_string(i) + ": slots for " +
                              std::to_string(item.source_slots.num_tokens()) + " tokens, but it has " +
                              std::to_string(item.tokens.size()));
    }
    Result<ChunkWriter> writer = store.begin_insert(item.key, item.recipe, item.tokens, stream);
    if (!writer.ok()) {
      return Status(writer.status().code(),
                    "capture: item " + std::to_string(i) + ": " + std::string(writer.status().message()));
    }
    entries.push_back(Entry{item, std::move(*writer)});
  }
  return Capture(backend, store.geometry(), std::move(entries));
}

bool Capture::nothing_to_take() const noexcept {
  return std::none_of(entries_.begin(), entries_.end(),
                      [](const Entry& entry) { return entry.writer.outcome() == InsertOutcome::kInserted; });
}

Status Capture::take_layer_async(std::int32_t layer, const ConstKvView& source, StreamRef stream) {
  return take(layer, source, RopeTableView{}, /*rotated=*/false, stream);
}

Status Capture::take_rotated_layer_async(std::int32_t layer, const ConstKvView& source, const RopeTableView& rope,
                                         StreamRef stream) {
  // Backends take an empty table to mean keys that do not turn, and rotated keys would be stored as semantic ones.
  if (rope.half_dim == 0) return invalid_argument("capture: rope: an empty table turns no keys back");
  return take(layer, source, rope, /*rotated=*/true, stream);
}

Status Capture::take(std::int32_t layer, const ConstKvView& source, const RopeTableView& rope, bool rotated,
                     StreamRef stream) {
  if (committed_) return invalid_argument("capture: layer " + std::to_string(layer) + " after commit()");
  if (layer < 0 || layer >= geometry_.num_layers) {
    return invalid_argument("capture: layer " + std::to_string(layer) + " of " + std::to_string(geometry_.num_layers));
  }
  for (Entry& entry : entries_) {
    if (entry.writer.outcome() != InsertOutcome::kInserted) continue;
    if (entry.writer.slab().encoding.format != SlabFormat::kPlain) {
      PIKV_TRY(encode(entry, layer, source, rope, rotated, stream));
      continue;
    }
    const auto num_tokens = static_cast<std::int64_t>(entry.item.tokens.size());
    KvRun run{.source = source,
              .source_slots = entry.item.source_slots,
              .target_slots = SlotMap::consecutive(0, num_tokens),
              .positions = entry.item.positions};
    KvTransfer transfer{.geometry = geometry_,
                        .runs = {&run, 1},
                        .target = entry.writer.view(),
                        .rope = rope,
                        .layer_begin = layer,
                        .layer_end = layer + 1};
    if (!rotated) {  // the source is one layer: both sides are presented as caches of that layer alone
      run.source.k_layers = run.source.v_layers = nullptr;
      transfer.target = detail::layers_from(transfer.target, layer);
      transfer.geometry.num_layers = 1;
      transfer.layer_begin = 0;
      transfer.layer_end = 1;
    }
    PIKV_TRY(rotated ? backend_->unanchor_async(transfer, stream) : backend_->reanchor_async(transfer, stream));
  }
  layers_taken_[static_cast<std::size_t>(layer)] = true;
  return Status();
}

Status Capture::encode(Entry& entry, std::int32_t layer, const ConstKvView& source, const RopeTableView& rope,
                       bool rotated, StreamRef stream) {
  SlabEncode encode{.geometry = geometry_,
                    .source = source,
                    .source_slots = entry.item.source_slots,
                    .positions = entry.item.positions,
                    .rope = rope,
                    .target = entry.writer.slab(),
                    .layer_begin = layer,
                    .layer_end = layer + 1};
  if (!rotated) {  // as in take()
    encode.source.k_layers = encode.source.v_layers = nullptr;
    encode.target = slab_layer(geometry_, encode.target, layer);
    encode.geometry.num_layers = 1;
    encode.layer_begin = 0;
    encode.layer_end = 1;
  }
  return backend_->encode_async(encode, stream);
}

Result<std::vector<CapturedChunk>> Capture::commit() {
  if (committed_) return invalid_argument("capture: committed twice");
  const auto missing = std::find(layers_taken_.begin(), layers_taken_.end(), false);
  if (missing != layers_taken_.end() && !nothing_to_take()) {
    return invalid_argument("capture: layer " + std::to_string(missing - layers_taken_.begin()) + " was never taken");
  }
  committed_ = true;
  std::vector<CapturedChunk> captured;
  captured.reserve(entries_.size());
  for (Entry& entry : entries_) {
    CapturedChunk result{.outcome = entry.writer.outcome(), .chunk = entry.writer.existing()};
    if (result.outcome == InsertOutcome::kInserted) {
      Result<ChunkHandle> chunk = entry.writer.commit();
      if (!chunk.ok()) return chunk.status();
      result.chunk = std::move(*chunk);
    }
    captured.push_back(std::move(result));
  }
  entries_.clear();
  return captured;
}

std::vector<CaptureItem> exact_prefix_items(const ChunkKeyer& keyer, const CompositionPlan& plan,
                                            std::int32_t block_tokens, const SlotMap& row_slots) {
  std::vector<CaptureItem> items;
  if (block_tokens < 1 || row_slots.num_tokens() != plan.num_rows() || keyer.rope().depends_on_length()) return items;

  auto piece = plan.pieces().begin();  // the first that ends behind `row`; the pieces cover all rows
  ContextDigest context = keyer.empty_context();
  for (std::int64_t row = 0; row + block_tokens <= plan.exact_rows(); row += block_tokens) {
    const auto block = plan.tokens().subspan(static_cast<std::size_t>(row), static_cast<std::size_t>(block_tokens));
    const ChunkRecipe recipe = ChunkRecipe::exact_context(context);
    const ChunkKey key = keyer.key(recipe, block);
    context = keyer.extend(context, block);
    while (piece->row_end <= row) ++piece;
    const bool loaded = piece->source == PlanPiece::Source::kExactPrefix && piece->key == key;
    bool computed = true;
    for (std::int64_t i = row; i < row + block_tokens; ++i) computed = computed && row_slots.slot(i) != kSkipSlot;
    if (loaded || !computed) continue;
    items.push_back(CaptureItem{.key = key,
                                .recipe = recipe,
                                .tokens = block,
                                .source_slots = row_slots.slice(row, block_tokens),
                                .positions = PositionMap::consecutive(static_cast<Position>(row))});
  }
  return items;
}

}  // namespace v0
}  // namespace pikv
