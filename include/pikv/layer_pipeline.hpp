// Placing a composition layer by layer while the engine computes, with chunks that lie in host memory coming up on the
// way.
//
// While the engine works on one layer, the copy engine brings the next layers of such chunks into a small ring in
// device memory, and another stream turns them into the engine's pages. Chunks in device memory are read where they
// lie, in the same launch.
//
//   auto pipeline = pikv::LayerPipeline::create(*backend, geometry, {.slot_bytes = 64LL << 20});
//   PIKV_TRY(pipeline->start(*composition, cache_view, row_slots, engine_stream));
//   for (int layer = 0; layer < num_layers; ++layer) {
//     PIKV_TRY(pipeline->wait_layer(layer, engine_stream));
//     // queue what the engine computes in this layer
//   }
#pragma once

#include <cstdint>
#include <memory>

#include "pikv/backend.hpp"
#include "pikv/composer.hpp"
#include "pikv/geometry.hpp"
#include "pikv/memory.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

struct LayerPipelineOptions {
  /// Of one place in the ring, which takes one layer of all chunks that come from host memory: at least
  /// required_slot_bytes() of any composition to be placed. Give several times that (4 is plenty) to come near the
  /// bus's rate: small layers then come up a few at once, as many as make copies of 4 MiB a chunk. > 0.
  std::int64_t slot_bytes = 0;
  std::int32_t num_slots = 3;  ///< > 0; how many places there are, the one being read among them
  /// Of the ring, in the backend's memory space; must outlive the pipeline. Null: the backend's memory_resource().
  MemoryResource* memory = nullptr;
};

/// One thread at a time. Move-only. Backend and memory must outlive it. Destroying it waits until what it has queued is
/// done.
class LayerPipeline {
 public:
  /// Allocates the ring. Errors: kInvalidArgument naming the option; the backend's and the memory's own.
  [[nodiscard]] static PIKV_API Result<LayerPipeline> create(Backend& backend, const KvGeometry& geometry,
                                                             const LayerPipelineOptions& options);

  PIKV_API LayerPipeline(LayerPipeline&&) noexcept;
  PIKV_API LayerPipeline& operator=(LayerPipeline&&) noexcept;
  PIKV_API ~LayerPipeline();

  /// Queues the first layer on streams of the pipeline's own, where its work starts once `engine_stream` has passed
  /// this point; the others follow in wait_layer(), so that the engine's first kernels need not wait for the host.
  /// Neither synchronises nor allocates device memory. `target`, `rows`: as for Composition::place_async().
  /// The composition, the arrays of `rows` and `target` and the memory of `target` must stay as they are until the event
  /// of the last layer has passed (wait_layer()). May be called again at once: what is left of the composition before is
  /// queued, the next follows in order, and only its layers can be waited for from then on.
  ///
  /// Errors, before anything is queued: kInvalidArgument for a composition of another geometry or backend, and for one
  /// that needs larger slots, naming how large. Those of Composition::place_async(), also of what was left of the
  /// composition before: layers before the one that failed are placed, and it returns once what it has queued is done.
  /// After an error no layer can be waited for.
  [[nodiscard]] PIKV_API Status start(const Composition& composition, const KvView& target, const SlotMap& rows,
                                      StreamRef engine_stream);

  /// Work queued on `engine_stream` from now on finds the layer's cached rows in its pages. Queues as many of the layers
  /// behind it as the ring takes; does not block. Layers beyond these are not placed before they are waited for. Errors:
  /// kInvalidArgument for a layer that is not there, or when no composition has been started; those of
  /// Composition::place_async(), as for start().
  [[nodiscard]] PIKV_API Status wait_layer(std::int32_t layer, StreamRef engine_stream);

  /// Bytes of one layer of the composition's chunks in host memory, each chunk once and on a boundary of 256; 0 when
  /// its backend reads host memory itself.
  [[nodiscard]] static PIKV_API std::int64_t required_slot_bytes(const Composition& composition);

 private:
  class Impl;
  explicit LayerPipeline(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace v0
}  // namespace pikv
