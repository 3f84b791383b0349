// What an fp32 cache in host memory holds of a sequence.
#pragma once

#include <vector>

#include "mini_engine/cache_rows.hpp"
#include "mini_engine/config.hpp"
#include "mini_engine/paged_cache.hpp"

namespace test_support {

/// Keys or values of a layer, [N][H*D].
inline std::vector<float> cached_rows(const mini_engine::Sequence& sequence, const mini_engine::ModelConfig& config,
                                      int layer, bool of_keys) {
  const mini_engine::CacheRows<float> cache(sequence.cache(), layer);
  std::vector<float> out;
  for (const mini_engine::Slot slot : sequence.slots()) {
    for (int head = 0; head < config.num_kv_heads; ++head) {
      const float* const x = of_keys ? cache.key(slot, head) : cache.value(slot, head);
      out.insert(out.end(), x, x + config.head_dim);
    }
  }
  return out;
}

}  // namespace test_support
