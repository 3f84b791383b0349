// How far K and V of a sequence lie, layer by layer, from those that computing the whole prompt gives.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/config.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/thread_pool.hpp"

namespace lab {

/// Relative Frobenius errors, |arm - full| / |full|, over all rows and heads of a layer.
struct LayerError {
  double keys = 0;
  double values = 0;
};

/// rows: of both sequences. Keys are compared as they stand: both must be turned to the same positions, which leaves
/// the error what it was before. Returns [L]. Throws mini_engine::Error for rows that one of them has not.
[[nodiscard]] std::vector<LayerError> layer_errors(const mini_engine::ModelConfig& config,
                                                   const mini_engine::Sequence& full, const mini_engine::Sequence& arm,
                                                   std::span<const std::int32_t> rows, mini_engine::ThreadPool& pool);

}  // namespace lab
