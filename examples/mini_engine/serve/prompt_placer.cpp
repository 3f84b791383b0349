#include "mini_engine/serve/prompt_placer.hpp"

#include <cstddef>
#include <numeric>

namespace mini_engine::serve {

PlacedPrompt ComputingPlacer::place(std::span<const PromptSegment> /*segments*/, Sequence& sequence) {
  PlacedPrompt placed;
  placed.rows_to_compute.resize(static_cast<std::size_t>(sequence.size()));
  std::iota(placed.rows_to_compute.begin(), placed.rows_to_compute.end(), 0);
  return placed;
}

}  // namespace mini_engine::serve
