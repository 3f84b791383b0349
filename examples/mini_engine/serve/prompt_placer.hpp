// Where rows of a prompt come from: the seam at which a cache of chunks joins the scheduler.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/serve/request.hpp"

namespace mini_engine::serve {

/// What is left of a prompt once its known rows are in place.
struct PlacedPrompt {
  /// Rows still to be computed, strictly ascending; the last row of the prompt is always among them.
  std::vector<std::int32_t> rows_to_compute;
  /// Null, or sees every pass over this prompt's rows. They come in order, share by share, and none comes twice. Owned
  /// by `holder`.
  PassObserver* observer = nullptr;
  /// What has to live until the last of these passes is done, or the request ends before; let go on the engine's
  /// thread.
  std::shared_ptr<void> holder = nullptr;
};

/// Called on the engine's thread alone.
class PromptPlacer {
 public:
  virtual ~PromptPlacer() = default;
  /// The sequence has a row, with a slot, for each token of the segments, and nothing computed yet. The placer writes K
  /// and V of the rows that it leaves out of rows_to_compute, of all layers, before it returns or in the observer's
  /// before_layer(). It takes no pages of the sequence's cache beyond the call. An exception fails the request.
  [[nodiscard]] virtual PlacedPrompt place(std::span<const PromptSegment> segments, Sequence& sequence) = 0;
};

/// Provides nothing: every row is computed.
class ComputingPlacer final : public PromptPlacer {
 public:
  [[nodiscard]] PlacedPrompt place(std::span<const PromptSegment> segments, Sequence& sequence) override;
};

}  // namespace mini_engine::serve
