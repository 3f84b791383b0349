// The oracle of the engine: a llama forward pass in double precision, written for the eye rather than for speed, and
// sharing no code with the engine. It recomputes everything for every row; there is no cache to get wrong.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "support/memory_model.hpp"

namespace test_support {

struct ReferenceOptions {
  std::vector<std::int32_t> documents;  ///< [N] or empty; as mini_engine::Pass::documents
  bool rounds_cache = false;            ///< K and V to bf16 when projected, keys once more when rotated
  bool rounds_weights = false;          ///< matrices (not norms) to bf16
};

struct ReferenceResult {
  std::vector<std::vector<double>> logits;  ///< [N][V]
  /// [L][N][H*D]: before rotation, after rotation; in the order of rows in which the model stores them.
  std::vector<std::vector<std::vector<double>>> keys, rotated_keys, values;
  std::vector<std::vector<std::vector<double>>> rotated_queries;  ///< [L][N][Q*D]
};

[[nodiscard]] ReferenceResult reference_forward(const MemoryModel& model, std::span<const mini_engine::TokenId> tokens,
                                                const ReferenceOptions& options = {});

}  // namespace test_support
