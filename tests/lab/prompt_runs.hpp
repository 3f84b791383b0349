// A small model and sequences of it, as the tests of the laboratory need them.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "mini_engine/cache_rows.hpp"
#include "mini_engine/cpu_model.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"

namespace test_support {

/// A model with room for sequences of its own.
struct LabWorld {
  explicit LabWorld(mini_engine::Precision precision = mini_engine::Precision::kFloat32)
      : model(MemoryModel(small_config(), 5), {.num_threads = 2}), cache(small_config(), precision, 64, 16) {}

  /// A sequence with the prompt's rows computed.
  mini_engine::Sequence computed(std::span<const mini_engine::TokenId> tokens,
                                 mini_engine::PassObserver* observer = nullptr) {
    mini_engine::Sequence sequence(cache);
    sequence.grow(static_cast<int>(tokens.size()));
    (void)run_rows(model, sequence, tokens, 0, sequence.size(), {}, observer);
    return sequence;
  }

  mini_engine::CpuModel model;
  mini_engine::PagedCache cache;
};

/// Calls body(key, value) with [H][D] of one row of one layer of an fp32 cache.
template <typename Body>
void with_row(const mini_engine::Sequence& sequence, int layer, std::int32_t row, const Body& body) {
  const mini_engine::CacheRows<float> rows(sequence.cache(), layer);
  const mini_engine::Slot slot = sequence.slots()[static_cast<std::size_t>(row)];
  body(rows.key(slot, 0), rows.value(slot, 0));
}

/// K and V of rows [from, from + count) of all layers, as they stand, to rows [to, ...) of another sequence.
inline void copy_rows(const mini_engine::Sequence& source, std::int32_t from, std::int32_t count,
                      const mini_engine::Sequence& target, std::int32_t to) {
  const mini_engine::ModelConfig config = small_config();
  const auto num_bytes = static_cast<std::size_t>(config.num_kv_heads * config.head_dim) * sizeof(float);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (std::int32_t i = 0; i < count; ++i) {
      with_row(source, layer, from + i, [&](const float* key, const float* value) {
        with_row(target, layer, to + i, [&](float* target_key, float* target_value) {
          std::memcpy(target_key, key, num_bytes);
          std::memcpy(target_value, value, num_bytes);
        });
      });
    }
  }
}

}  // namespace test_support
