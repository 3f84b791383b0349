// Taking K and V out of an engine's forward pass, layer by layer, and into the store.
//
//   pikv::Result<pikv::Capture> capture = pikv::Capture::begin(store, backend, items);
//   for each layer, once its projections are done:
//     PIKV_TRY(capture->take_layer_async(layer, projected_rows, stream));
//   // when the stream has passed the last one:
//   pikv::Result<std::vector<pikv::CapturedChunk>> stored = capture->commit();
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/chunk_key.hpp"
#include "pikv/plan.hpp"
#include "pikv/store.hpp"

namespace pikv {
inline namespace v0 {

/// One chunk to take. All arrays must stay alive until commit().
struct CaptureItem {
  ChunkKey key{};
  ChunkRecipe recipe = ChunkRecipe::alone();
  std::span<const TokenId> tokens;  ///< [T], T >= 1
  /// Which slots of the source hold the tokens, T of them. For a projection's output these are indices of the pass.
  SlotMap source_slots = SlotMap::consecutive(0, 0);
  /// At which positions the source's keys stand; read by take_rotated_layer_async() alone.
  PositionMap positions = PositionMap::consecutive(0);
};

struct CapturedChunk {
  InsertOutcome outcome = InsertOutcome::kNoRoom;
  ChunkHandle chunk;  ///< pinned, for kInserted and kAlreadyPresent; else null
};

/// Chunks on their way into the store. What is stored already costs nothing. Dropped without commit(), it leaves no
/// trace; the stream must have passed every take by then too. Move-only, one thread at a time; must not outlive store
/// and backend.
class Capture {
 public:
  /// stream: on which slabs are allocated, and on which the layers will be taken (Store::begin_insert()). Errors:
  /// kInvalidArgument naming the item; those of Store::begin_insert().
  [[nodiscard]] static PIKV_API Result<Capture> begin(Store& store, Backend& backend,
                                                      std::span<const CaptureItem> items,
                                                      StreamRef stream = StreamRef::legacy_default());

  /// True when every item is stored already or declined: no layer has to be taken.
  [[nodiscard]] PIKV_API bool nothing_to_take() const noexcept;

  /// Queues copying one layer of semantic keys and values from `source`, a view of that one layer: its layer strides
  /// and per-layer bases are not used. Each layer once, in any order. Rounds to the store's dtype, to nearest even,
  /// or encodes as the store's encoding says.
  [[nodiscard]] PIKV_API Status take_layer_async(std::int32_t layer, const ConstKvView& source, StreamRef stream);

  /// The same from an engine's cache of rotated keys, which are turned back; `source` is the cache with all its layers.
  [[nodiscard]] PIKV_API Status take_rotated_layer_async(std::int32_t layer, const ConstKvView& source,
                                                         const RopeTableView& rope, StreamRef stream);

  /// Publishes all chunks, one result for each item. The stream must have passed every take. kInvalidArgument when a
  /// layer is missing, or when called twice.
  [[nodiscard]] PIKV_API Result<std::vector<CapturedChunk>> commit();

 private:
  struct Entry {
    CaptureItem item;
    ChunkWriter writer;
  };
  Capture(Backend& backend, const KvGeometry& geometry, std::vector<Entry> entries);
  [[nodiscard]] Status take(std::int32_t layer, const ConstKvView& source, const RopeTableView& rope, bool rotated,
                            StreamRef stream);
  [[nodiscard]] Status encode(Entry& entry, std::int32_t layer, const ConstKvView& source, const RopeTableView& rope,
                              bool rotated, StreamRef stream);

  Backend* backend_;
  KvGeometry geometry_;
  std::vector<Entry> entries_;
  std::vector<bool> layers_taken_;
  bool committed_ = false;
};

/// The blocks of a prompt that may enter the store as exact prefix once `plan` has run: whole blocks of
/// `block_tokens` within plan.exact_rows() that were not loaded from it. `row_slots` maps rows of the prompt to slots
/// of the capture's source; rows it skips (kSkipSlot) were not computed, and blocks that need them are left out. None
/// when block_tokens is below 1 or row_slots is not one for each row. Items refer to the plan's tokens and to
/// `row_slots`; their positions are those of the rows, so that they serve take_rotated_layer_async() too.
[[nodiscard]] PIKV_API std::vector<CaptureItem> exact_prefix_items(const ChunkKeyer& keyer, const CompositionPlan& plan,
                                                                   std::int32_t block_tokens, const SlotMap& row_slots);

}  // namespace v0
}  // namespace pikv
