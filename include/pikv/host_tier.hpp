// A tier in host memory: behind a store in device memory it holds what does not fit there, in full or in fewer bits,
// and lets the device read it where it lies.
//
//   auto tier = pikv::make_host_tier({.geometry = geometry, .capacity_bytes = 64LL << 30, .memory = &pinned_memory,
//                                     .encoding = {}, .backend = backend.get()});
//   auto store = pikv::Store::create({.geometry = geometry, .capacity_bytes = 8LL << 30, .memory = &device_memory,
//                                     .tiers = {*tier}});
//
// A chunk enters when it is committed to the store: copied as it is, or encoded on the backend where the tier's
// encoding differs. A look-up that misses device memory then gets the chunk where it lies (Tier::resident());
// Store::prefetch() brings it up, which needs the store's encoding to be the tier's.
#pragma once

#include <cstdint>
#include <memory>

#include "pikv/backend.hpp"
#include "pikv/geometry.hpp"
#include "pikv/memory.hpp"
#include "pikv/slab.hpp"
#include "pikv/status.hpp"
#include "pikv/tier.hpp"

namespace pikv {
inline namespace v0 {

struct HostTierOptions {
  KvGeometry geometry;              ///< of every chunk in this tier
  std::int64_t capacity_bytes = 0;  ///< > 0; in footprints (Chunk::footprint_bytes()), least recently used out first
  /// Host memory; page-locked where the backend is a device, or chunks are not resident() and copies are slow. Null:
  /// host_memory_resource(). Must outlive the tier and every handle on its chunks.
  MemoryResource* memory = nullptr;
  SlabEncoding encoding{};     ///< of every chunk in this tier
  Backend* backend = nullptr;  ///< copies and encodes; must outlive the tier and its fetches
};

/// Errors: kInvalidArgument naming the field; the backend's when it makes no stream.
///
/// Of the tier's calls, put() and a fetch's wait() block until copies are done, each on a stream of the tier's own.
/// put() takes chunks of the tier's encoding, and kPlain chunks into any; other conversions are kUnsupported. A chunk
/// that the tier has to encode on a device passes through the backend's memory_resource(). A chunk comes back with the
/// tier's encoding. Thread-safety: that of Tier.
[[nodiscard]] PIKV_API Result<std::shared_ptr<Tier>> make_host_tier(const HostTierOptions& options);

}  // namespace v0
}  // namespace pikv
