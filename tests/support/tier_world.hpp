// A small world with a store in one memory, a host tier in another and a backend between them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pikv/pikv.hpp"
#include "support/kv_world.hpp"

namespace test_support {

/// Ordinary host memory under a name of its own, which counts what is out.
class NamedMemory final : public pikv::MemoryResource {
 public:
  explicit NamedMemory(pikv::MemorySpace space) : space_(space) {}
  [[nodiscard]] pikv::MemorySpace space() const noexcept override { return space_; }
  [[nodiscard]] pikv::Result<void*> allocate_async(std::size_t size_bytes, pikv::StreamRef stream) override {
    pikv::Result<void*> data = pikv::host_memory_resource().allocate_async(size_bytes, stream);
    if (data.ok()) live_bytes_ += static_cast<std::int64_t>(size_bytes);
    return data;
  }
  void deallocate_async(void* data, std::size_t size_bytes, pikv::StreamRef stream) noexcept override {
    live_bytes_ -= static_cast<std::int64_t>(size_bytes);
    pikv::host_memory_resource().deallocate_async(data, size_bytes, stream);
  }
  [[nodiscard]] std::int64_t live_bytes() const { return live_bytes_; }

 private:
  const pikv::MemorySpace space_;
  std::atomic<std::int64_t> live_bytes_ = 0;
};

/// One layer of semantic_value()s as a pass would project them, in a view of that layer. Lies in host memory, which
/// `space` may call by another name.
class ProjectedLayer {
 public:
  ProjectedLayer(const pikv::KvGeometry& geometry, const pikv::ChunkKey& key, std::int64_t num_tokens,
                 std::int32_t layer, pikv::MemorySpace space)
      : num_tokens_(num_tokens), space_(space), geometry_(geometry) {
    geometry_.num_layers = 1;
    bytes_.resize(static_cast<std::size_t>(num_tokens * geometry_.bytes_per_token()));
    const pikv::SlabView slab{bytes_.data(), num_tokens, {}, space};
    for (std::int64_t token = 0; token < num_tokens; ++token) {
      for_each_element(geometry_, 0, 1, [&](const Element& element) {
        Element there = element;
        there.layer = layer;
        write_bits(pikv::plain_view(geometry_, slab), token, element,
                   encode(geometry_.dtype, semantic_value(key, token, there)));
      });
    }
  }
  [[nodiscard]] pikv::ConstKvView view() const {
    return pikv::plain_view(geometry_, pikv::ConstSlabView{bytes_.data(), num_tokens_, {}, space_});
  }

 private:
  std::int64_t num_tokens_;
  pikv::MemorySpace space_;
  pikv::KvGeometry geometry_;
  std::vector<std::byte> bytes_;
};

/// Captures a chunk of semantic_value()s layer by layer; null when the store declines.
inline pikv::ChunkHandle capture_chunk(pikv::Store& store, pikv::Backend& backend, const World& world,
                                       const pikv::ChunkRecipe& recipe, std::span<const pikv::TokenId> tokens) {
  const auto num_tokens = static_cast<std::int64_t>(tokens.size());
  const pikv::CaptureItem item{.key = world.keyer().key(recipe, tokens),
                               .recipe = recipe,
                               .tokens = tokens,
                               .source_slots = pikv::SlotMap::consecutive(0, num_tokens)};
  const pikv::StreamRef stream = pikv::StreamRef::legacy_default();
  pikv::Capture capture = std::move(pikv::Capture::begin(store, backend, {&item, 1}, stream).value());
  std::vector<ProjectedLayer> layers;
  for (std::int32_t layer = 0; layer < world.geometry().num_layers; ++layer) {
    layers.emplace_back(world.geometry(), item.key, num_tokens, layer, backend.caps().space);
    if (!capture.take_layer_async(layer, layers.back().view(), stream).ok()) return nullptr;
  }
  if (!backend.synchronize(stream).ok()) return nullptr;
  return capture.commit().value().front().chunk;
}

/// A store with nothing in it.
inline std::unique_ptr<pikv::Store> make_store(const World& world, pikv::MemoryResource& memory,
                                               std::vector<std::shared_ptr<pikv::Tier>> tiers = {},
                                               pikv::SlabFormat format = pikv::SlabFormat::kPlain,
                                               std::int64_t capacity_bytes = std::int64_t{1} << 24) {
  pikv::StoreOptions options;
  options.geometry = world.geometry();
  options.capacity_bytes = capacity_bytes;
  options.memory = &memory;
  options.tiers = std::move(tiers);
  options.encoding.format = format;
  return std::move(pikv::Store::create(std::move(options)).value());
}

inline std::shared_ptr<pikv::Tier> make_tier(const World& world, pikv::Backend& backend, pikv::MemoryResource& memory,
                                             pikv::SlabFormat format = pikv::SlabFormat::kPlain,
                                             std::int64_t capacity_bytes = std::int64_t{1} << 24) {
  return pikv::make_host_tier({.geometry = world.geometry(),
                               .capacity_bytes = capacity_bytes,
                               .memory = &memory,
                               .encoding = {.format = format},
                               .backend = &backend})
      .value();
}

inline constexpr pikv::SlabFormat kAllFormats[] = {pikv::SlabFormat::kPlain, pikv::SlabFormat::kFloat8,
                                                   pikv::SlabFormat::kInt8, pikv::SlabFormat::kInt4};

}  // namespace test_support
