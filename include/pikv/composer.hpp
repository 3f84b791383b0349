// From a prompt to rows in an engine's pages: look-up, plan, load, and layer-by-layer placement on the caller's stream.
//
//   pikv::Result<pikv::Composer> composer = pikv::Composer::create(store, backend, keyer, rope_table);
//   pikv::Result<pikv::Composition> composition = composer->compose(prompt);
//   for (int layer = 0; layer < num_layers; ++layer) {
//     PIKV_TRY(composition->place_layer_async(layer, cache_view, row_slots, stream));
//     // the engine computes composition->plan().rows_to_compute() of this layer
//   }
//
// The longest exact prefix comes first, then position-free chunks, then tokens to compute. A chunk that is lost between
// look-up and load turns into tokens to compute, with the reason in the plan. A chunk stored in fewer bits than it was
// computed in (SlabFormat) never gives exact rows, wherever it stands.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/chunk_key.hpp"
#include "pikv/plan.hpp"
#include "pikv/rope.hpp"
#include "pikv/store.hpp"

namespace pikv {
namespace detail {
struct CompositionAccess;
}  // namespace detail
inline namespace v0 {

struct ComposerOptions {
  bool use_exact_prefix = true;
  bool use_chunks = true;
  /// Exact prefixes are stored in blocks of so many tokens; the same for everybody who shares a store.
  std::int32_t prefix_block_tokens = 16;
};

/// A plan and the look-ups it was made from, which keep found chunks pinned.
struct PlannedPrompt {
  CompositionPlan plan;
  std::vector<Lookup> lookups;  ///< one for each piece of the plan; may be left empty, then load() looks up again
};

/// A plan whose chunks are all in memory and pinned. Move-only; place members may be called from one thread at a time.
class Composition {
 public:
  /// What will really happen: chunks that could not be loaded are computed.
  [[nodiscard]] const CompositionPlan& plan() const noexcept { return plan_; }

  /// Queues re-anchoring of all cached rows of one layer into the engine's cache. rows: slot of every row of the
  /// prompt, plan().num_rows() of them; its arrays and `target` lie in the backend's memory space. The composition and
  /// the arrays must stay alive until the stream has passed the call. Rows to compute are not written; repaired rows
  /// are, before the engine overwrites them. Errors: kInvalidArgument for a layer that is not there or slots that are
  /// not one for each row; as Backend::reanchor_async().
  [[nodiscard]] PIKV_API Status place_layer_async(std::int32_t layer, const KvView& target, const SlotMap& rows,
                                                  StreamRef stream) const;
  /// All layers at once, for engines that cannot wait layer by layer.
  [[nodiscard]] PIKV_API Status place_async(const KvView& target, const SlotMap& rows, StreamRef stream) const;

  Composition(Composition&&) noexcept = default;
  Composition& operator=(Composition&&) noexcept = default;

 private:
  friend class Composer;
  friend struct detail::CompositionAccess;
  Composition(CompositionPlan plan, std::vector<ChunkHandle> chunks, const KvGeometry& geometry, Backend& backend,
              RopeTable table)
      : plan_(std::move(plan)),
        chunks_(std::move(chunks)),
        geometry_(geometry),
        backend_(&backend),
        table_(std::move(table)) {}
  [[nodiscard]] Status place_layers(std::int32_t layer_begin, std::int32_t layer_end, const KvView& target,
                                    const SlotMap& rows, StreamRef stream) const;

  CompositionPlan plan_;
  std::vector<ChunkHandle> chunks_;  // one for each piece; null for computed ones
  KvGeometry geometry_;
  Backend* backend_;
  RopeTable table_;
};

/// Thread-safety: const members may be called from several threads. Store, backend and keyer must outlive it and every
/// Composition it made.
class Composer {
 public:
  /// table: in the backend's memory space, for the positions of the longest prompt. Refuses a keyer, store and table
  /// that disagree on geometry, rotary size or pairing, and a prefix block size below 1.
  [[nodiscard]] static PIKV_API Result<Composer> create(Store& store, Backend& backend, const ChunkKeyer& keyer,
                                                        RopeTable table, const ComposerOptions& options = {});

  /// Looks everything up and plans. Waits for slower tiers to find out where the exact prefix ends, because that
  /// decides what may be reused behind it. For position-free chunks it starts fetches and does not wait: a pending
  /// chunk is planned as a hit. Errors: kInvalidArgument for an empty prompt, one longer than the table, a chunk whose
  /// recipe is not position-free or whose anchor leaves the table.
  [[nodiscard]] PIKV_API Result<PlannedPrompt> plan(const Prompt& prompt) const;

  /// Waits for fetches and pins every chunk; what is lost becomes rows to compute, and what turns up in a lossy format
  /// though it was planned as exact becomes approximate, with all exact pieces behind it.
  [[nodiscard]] PIKV_API Result<Composition> load(PlannedPrompt planned) const;

  /// plan(), then load().
  [[nodiscard]] PIKV_API Result<Composition> compose(const Prompt& prompt) const;

  [[nodiscard]] const ComposerOptions& options() const noexcept { return options_; }

 private:
  Composer(Store& store, Backend& backend, const ChunkKeyer& keyer, RopeTable table, const ComposerOptions& options)
      : store_(&store), backend_(&backend), keyer_(&keyer), table_(std::move(table)), options_(options) {}

  Store* store_;
  Backend* backend_;
  const ChunkKeyer* keyer_;
  RopeTable table_;
  ComposerOptions options_;
};

}  // namespace v0
}  // namespace pikv
