// The layer pipeline against Composition::place_async(), on a backend that runs queued work in the worst order that
// events allow.
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pikv/layer_pipeline.hpp"
#include "support/kv_world.hpp"
#include "support/lazy_backend.hpp"
#include "support/tier_world.hpp"

namespace {

using pikv::ChunkRecipe;
using pikv::Composition;
using pikv::LayerPipeline;
using pikv::MemorySpace;
using pikv::Prompt;
using pikv::SlabFormat;
using pikv::SlotMap;
using pikv::StreamRef;
using test_support::EngineCache;
using test_support::LazyBackend;
using test_support::LazyOrder;
using test_support::NamedMemory;
using test_support::token_run;
using test_support::World;

constexpr std::int64_t kSlotBytes = 1 << 14;

/// A device, page-locked memory, a tier there, and a store that has nothing but what it is given.
struct Device {
  Device(LazyOrder order, std::uint32_t seed, SlabFormat tier_format)
      : backend(order, seed), tier(test_support::make_tier(world, backend, pinned, tier_format)) {
    store = test_support::make_store(world, backend.memory_resource(), {tier});
    composer.emplace(pikv::Composer::create(*store, backend, world.keyer(), world.table()).value());
  }

  /// Chunks in the tier alone, in the store alone, one of them twice, with fresh tokens between: 58 rows.
  Composition mixed(pikv::TokenId first) {
    const auto in_tier = token_run(first, 13);
    const auto in_store = token_run(first + 100, 9);
    const auto also_in_tier = token_run(first + 200, 11);
    {
      const auto feeder = test_support::make_store(world, backend.memory_resource(), {tier});
      REQUIRE(test_support::capture_chunk(*feeder, backend, world, ChunkRecipe::alone(), in_tier) != nullptr);
      REQUIRE(test_support::capture_chunk(*feeder, backend, world, ChunkRecipe::alone(), also_in_tier) != nullptr);
    }
    REQUIRE(test_support::capture_chunk(*store, backend, world, ChunkRecipe::alone(), in_store) != nullptr);
    Prompt prompt;
    prompt.add_fresh(token_run(first + 300, 3));
    prompt.add_chunk(in_tier, ChunkRecipe::alone());
    prompt.add_chunk(in_store, ChunkRecipe::alone());
    prompt.add_fresh(token_run(first + 400, 5));
    prompt.add_chunk(also_in_tier, ChunkRecipe::alone());
    prompt.add_chunk(in_tier, ChunkRecipe::alone());
    prompt.add_fresh(token_run(first + 500, 4));
    Composition composition = std::move(composer->compose(prompt).value());
    REQUIRE(composition.plan().stats().reused_tokens() == 46);
    return composition;
  }

  World world;
  NamedMemory pinned{MemorySpace::kPinnedHost};
  LazyBackend backend;
  std::shared_ptr<pikv::Tier> tier;
  std::unique_ptr<pikv::Store> store;
  std::optional<pikv::Composer> composer;
};

pikv::KvView on_device(EngineCache& cache) {
  pikv::KvView view = cache.view();
  view.space = MemorySpace::kDevice;
  return view;
}

/// What place_async() makes of the composition.
EngineCache placed_at_once(Device& device, const Composition& composition, const SlotMap& rows) {
  EngineCache cache(device.world.geometry(), pikv::DType::kBFloat16, 8, 24);
  const StreamRef stream = StreamRef::legacy_default();
  REQUIRE(composition.place_async(on_device(cache), rows, stream).ok());
  REQUIRE(device.backend.synchronize(stream).ok());
  return cache;
}

/// Work of an engine's stream that notes, when its turn comes, whether layer `layer` of two caches is equal.
std::shared_ptr<bool> check_layer_later(Device& device, const EngineCache& found, const EngineCache& expected,
                                        std::int32_t layer, StreamRef stream) {
  auto equal = std::make_shared<bool>(false);
  device.backend.enqueue(
      [&device, &found, &expected, layer, equal] {
        *equal = true;
        for (pikv::Slot slot = 0; slot < 8 * 24; ++slot) {
          test_support::for_each_element(
              device.world.geometry(), layer, layer + 1, [&](const test_support::Element& element) {
                *equal = *equal && test_support::read_bits(found.view(), slot, element) ==
                                       test_support::read_bits(expected.view(), slot, element);
              });
        }
      },
      stream);
  return equal;
}

void check_two_in_a_row(LazyOrder order, std::uint32_t seed, SlabFormat tier_format, std::int32_t num_slots,
                        std::int64_t layers_per_slot, bool engine_stream_is_oldest) {
  CAPTURE(static_cast<int>(order));
  CAPTURE(seed);
  CAPTURE(std::string(pikv::slab_format_name(tier_format)));
  CAPTURE(num_slots);
  CAPTURE(layers_per_slot);
  CAPTURE(engine_stream_is_oldest);
  Device device(order, seed, tier_format);
  const Composition first = device.mixed(1000);
  const Composition second = device.mixed(5000);
  std::vector<std::int32_t> pages;
  for (std::int32_t page = 22; page >= 0; page -= 2) pages.push_back(page);
  const SlotMap rows = SlotMap::page_table(pages.data(), 8, 0, 58);
  const EngineCache expected[] = {placed_at_once(device, first, rows), placed_at_once(device, second, rows)};
  REQUIRE(!(expected[0] == expected[1]));

  const EngineCache untouched(device.world.geometry(), pikv::DType::kBFloat16, 8, 24);
  EngineCache cache = untouched;
  std::unique_ptr<pikv::Stream> engine;
  if (engine_stream_is_oldest) engine = std::move(device.backend.create_stream().value());
  auto pipeline = LayerPipeline::create(
      device.backend, device.world.geometry(),
      {.slot_bytes = layers_per_slot * LayerPipeline::required_slot_bytes(first), .num_slots = num_slots});
  REQUIRE(pipeline.ok());
  if (!engine_stream_is_oldest) engine = std::move(device.backend.create_stream().value());
  const StreamRef stream = engine->ref();

  const int num_allocations = device.backend.memory().num_allocations();
  const int num_synchronizes = device.backend.num_synchronizes();
  std::vector<std::shared_ptr<bool>> answers;
  const auto nothing_yet = std::make_shared<bool>(false);
  device.backend.enqueue(
      [&device, nothing_yet, copied = device.backend.num_copied_bytes()] {
        *nothing_yet = device.backend.num_copied_bytes() == copied;
      },
      stream);
  for (int i = 0; i < 2; ++i) {
    // The engine's own work before: whatever has been placed too early is gone again.
    device.backend.enqueue([&cache, &untouched] { cache = untouched; }, stream);
    REQUIRE(pipeline->start(i == 0 ? first : second, on_device(cache), rows, stream).ok());
    for (std::int32_t layer = 0; layer < device.world.geometry().num_layers; ++layer) {
      REQUIRE(pipeline->wait_layer(layer, stream).ok());
      answers.push_back(check_layer_later(device, cache, expected[i], layer, stream));
    }
  }
  CHECK(device.backend.memory().num_allocations() == num_allocations);
  CHECK(device.backend.num_synchronizes() == num_synchronizes);
  CHECK(cache == untouched);  // nothing runs before it must

  REQUIRE(device.backend.synchronize(stream).ok());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    CAPTURE(i);
    CHECK(*answers[i]);
  }
  CHECK(*nothing_yet);
  CHECK(cache == expected[1]);
}

}  // namespace

TEST_CASE("layer pipeline: every layer is in its pages when the engine's turn comes, in whatever order streams run") {
  for (const bool oldest : {true, false}) {
    for (const std::int32_t num_slots : {1, 2, 3, 5}) {
      for (const std::int64_t layers : {1, 2, 4}) {
        for (const SlabFormat format : test_support::kAllFormats) {
          check_two_in_a_row(LazyOrder::kOldestFirst, 1, format, num_slots, layers, oldest);
          check_two_in_a_row(LazyOrder::kNewestFirst, 1, format, num_slots, layers, oldest);
        }
        for (std::uint32_t seed = 1; seed <= 10; ++seed) {
          check_two_in_a_row(LazyOrder::kRandom, seed, SlabFormat::kPlain, num_slots, layers, oldest);
        }
      }
    }
  }
}

TEST_CASE("layer pipeline: chunks in device memory are placed after the engine's work before, without the ring") {
  for (const LazyOrder order : {LazyOrder::kOldestFirst, LazyOrder::kNewestFirst}) {
    Device device(order, 1, SlabFormat::kPlain);
    const auto doc = token_run(1000, 13);
    REQUIRE(test_support::capture_chunk(*device.store, device.backend, device.world, ChunkRecipe::alone(), doc) !=
            nullptr);
    Prompt prompt;
    prompt.add_chunk(doc, ChunkRecipe::alone());
    prompt.add_fresh(token_run(50, 2));
    const Composition composition = std::move(device.composer->compose(prompt).value());
    CHECK(LayerPipeline::required_slot_bytes(composition) == 0);
    const SlotMap rows = SlotMap::consecutive(0, 15);
    const EngineCache expected = placed_at_once(device, composition, rows);
    const EngineCache untouched(device.world.geometry(), pikv::DType::kBFloat16, 8, 24);
    EngineCache cache = untouched;
    const auto engine = std::move(device.backend.create_stream().value());
    auto pipeline = LayerPipeline::create(device.backend, device.world.geometry(), {.slot_bytes = 1});
    REQUIRE(pipeline.ok());
    device.backend.enqueue([&cache, &untouched] { cache = untouched; }, engine->ref());
    REQUIRE(pipeline->start(composition, on_device(cache), rows, engine->ref()).ok());
    for (std::int32_t layer = 0; layer < 3; ++layer) REQUIRE(pipeline->wait_layer(layer, engine->ref()).ok());
    REQUIRE(device.backend.synchronize(engine->ref()).ok());
    CHECK(cache == expected);
  }
}

TEST_CASE("layer pipeline: the ring takes each chunk of host memory once") {
  for (const SlabFormat format : test_support::kAllFormats) {
    CAPTURE(std::string(pikv::slab_format_name(format)));
    Device device(LazyOrder::kRandom, 1, format);
    const Composition composition = device.mixed(1000);
    const pikv::KvGeometry& geometry = device.world.geometry();
    const auto layer_bytes = [&](std::int64_t num_tokens) {
      return pikv::slab_sections(geometry, format, num_tokens).layer_bytes;
    };
    const auto rounded = [](std::int64_t bytes) { return (bytes + 255) / 256 * 256; };
    const std::int64_t needed = rounded(layer_bytes(13)) + rounded(layer_bytes(11));
    CHECK(LayerPipeline::required_slot_bytes(composition) == needed);

    auto pipeline = LayerPipeline::create(device.backend, geometry, {.slot_bytes = needed});
    REQUIRE(pipeline.ok());
    EngineCache cache(geometry, pikv::DType::kBFloat16, 8, 24);
    const std::int64_t copied_before = device.backend.num_copied_bytes();
    REQUIRE(
        pipeline->start(composition, on_device(cache), SlotMap::consecutive(0, 58), StreamRef::legacy_default()).ok());
    REQUIRE(pipeline->wait_layer(2, StreamRef::legacy_default()).ok());
    REQUIRE(device.backend.synchronize(StreamRef::legacy_default()).ok());
    CHECK(device.backend.num_copied_bytes() - copied_before == 3 * (layer_bytes(13) + layer_bytes(11)));

    auto too_small = LayerPipeline::create(device.backend, geometry, {.slot_bytes = needed - 1});
    const pikv::Status refused =
        too_small->start(composition, on_device(cache), SlotMap::consecutive(0, 58), StreamRef::legacy_default());
    CHECK(refused.code() == pikv::ErrorCode::kInvalidArgument);
    CHECK(refused.message() == "layer pipeline: slot_bytes is " + std::to_string(needed - 1) +
                                   ", the composition needs " + std::to_string(needed));
    CHECK(too_small->wait_layer(0, StreamRef::legacy_default()).code() == pikv::ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("layer pipeline: its ring goes back, after what was queued on it") {
  Device device(LazyOrder::kOldestFirst, 1, SlabFormat::kInt8);
  const Composition composition = device.mixed(1000);
  const EngineCache expected = placed_at_once(device, composition, SlotMap::consecutive(0, 58));
  EngineCache cache(device.world.geometry(), pikv::DType::kBFloat16, 8, 24);
  const std::int64_t live_bytes = device.backend.memory().live_bytes();
  {
    auto pipeline = LayerPipeline::create(device.backend, device.world.geometry(), {.slot_bytes = kSlotBytes});
    REQUIRE(pipeline.ok());
    CHECK(device.backend.memory().live_bytes() == live_bytes + 3 * kSlotBytes);
    LayerPipeline moved = std::move(*pipeline);
    REQUIRE(moved.start(composition, on_device(cache), SlotMap::consecutive(0, 58), StreamRef::legacy_default()).ok());
    REQUIRE(moved.wait_layer(2, StreamRef::legacy_default()).ok());
  }
  CHECK(device.backend.memory().live_bytes() == live_bytes);
  CHECK(cache == expected);
}

TEST_CASE("layer pipeline: layers allocated apart and scales of an fp8 cache are found layer by layer") {
  Device device(LazyOrder::kRandom, 3, SlabFormat::kPlain);
  const pikv::KvGeometry& geometry = device.world.geometry();
  const Composition composition = device.mixed(1000);
  auto pipeline = LayerPipeline::create(device.backend, geometry, {.slot_bytes = kSlotBytes});
  REQUIRE(pipeline.ok());
  const StreamRef stream = StreamRef::legacy_default();

  const pikv::KvLayout layout = [&] {
    pikv::KvLayout made = pikv::nhd_pages(geometry, 1, 64);
    made.dtype = pikv::DType::kFloat8E4M3;
    return made;
  }();
  const std::vector<float> scales{0.5F, 0.25F, 2.0F, 1.0F, 4.0F, 0.125F};  // [L][H]
  const auto place = [&](bool by_pipeline) {
    std::vector<std::vector<std::byte>> layers(6, std::vector<std::byte>(64 * 32, std::byte{0x7F}));
    std::vector<std::byte*> k_layers, v_layers;
    for (std::size_t i = 0; i < 3; ++i) {
      k_layers.push_back(layers[i].data());
      v_layers.push_back(layers[3 + i].data());
    }
    const pikv::KvView target{.layout = layout,
                              .k_layers = k_layers.data(),
                              .v_layers = v_layers.data(),
                              .num_slots = 64,
                              .space = MemorySpace::kDevice,
                              .scales = {.k = scales.data(), .v = scales.data(), .layer_stride = 2, .head_stride = 1}};
    const SlotMap rows = SlotMap::consecutive(0, 58);
    if (by_pipeline) {
      REQUIRE(pipeline->start(composition, target, rows, stream).ok());
      REQUIRE(pipeline->wait_layer(2, stream).ok());
    } else {
      REQUIRE(composition.place_async(target, rows, stream).ok());
    }
    REQUIRE(device.backend.synchronize(stream).ok());
    return layers;
  };
  const auto expected = place(false);
  CHECK(place(true) == expected);
  CHECK(expected[0] != expected[1]);
}

TEST_CASE("layer pipeline: the CPU backend needs no ring") {
  World world;
  const auto doc = token_run(1000, 13);
  world.put(ChunkRecipe::alone(), doc);
  Prompt prompt;
  prompt.add_fresh(token_run(1, 2));
  prompt.add_chunk(doc, ChunkRecipe::alone());
  prompt.add_fresh(token_run(50, 3));
  const auto composition = world.composer().compose(prompt);
  REQUIRE(composition.ok());
  CHECK(LayerPipeline::required_slot_bytes(*composition) == 0);
  auto pipeline = LayerPipeline::create(world.backend(), world.geometry(), {.slot_bytes = 1});
  REQUIRE(pipeline.ok());
  EngineCache expected(world.geometry(), pikv::DType::kFloat16, 4, 8),
      cache(world.geometry(), pikv::DType::kFloat16, 4, 8);
  const StreamRef stream = StreamRef::legacy_default();
  REQUIRE(composition->place_async(expected.view(), SlotMap::consecutive(3, 18), stream).ok());
  REQUIRE(pipeline->start(*composition, cache.view(), SlotMap::consecutive(3, 18), stream).ok());
  for (std::int32_t layer = 0; layer < 3; ++layer) CHECK(pipeline->wait_layer(layer, stream).ok());
  CHECK(cache == expected);
}

TEST_CASE("layer pipeline: what is wrong is refused by name") {
  Device device(LazyOrder::kRandom, 1, SlabFormat::kPlain);
  Device other(LazyOrder::kRandom, 1, SlabFormat::kPlain);
  const pikv::KvGeometry& geometry = device.world.geometry();
  const StreamRef stream = StreamRef::legacy_default();
  const auto create_error = [&](const pikv::KvGeometry& g, const pikv::LayerPipelineOptions& options) {
    const auto made = LayerPipeline::create(device.backend, g, options);
    return made.ok() ? std::string("made") : std::string(made.status().message());
  };
  CHECK(create_error(geometry, {.slot_bytes = 0}).find("slot_bytes is 0") != std::string::npos);
  CHECK(create_error(geometry, {.slot_bytes = 1, .num_slots = 0}).find("num_slots is 0") != std::string::npos);
  CHECK(create_error(geometry, {.slot_bytes = 1, .memory = &device.pinned}).find("memory space") != std::string::npos);
  CHECK(create_error({}, {.slot_bytes = 1}) != "made");

  auto pipeline = LayerPipeline::create(device.backend, geometry, {.slot_bytes = kSlotBytes});
  REQUIRE(pipeline.ok());
  CHECK(pipeline->wait_layer(0, stream).message() == "layer pipeline: no composition has been started");
  CHECK(pipeline->wait_layer(-1, stream).message() == "layer pipeline: layer -1 of 3");
  CHECK(pipeline->wait_layer(3, stream).message() == "layer pipeline: layer 3 of 3");

  const Composition composition = device.mixed(1000);
  const Composition foreign = other.mixed(1000);
  const EngineCache untouched(geometry, pikv::DType::kBFloat16, 8, 24);
  EngineCache cache = untouched;
  const SlotMap rows = SlotMap::consecutive(0, 58);
  const auto start_error = [&](const Composition& what, const pikv::KvView& target, const SlotMap& where) {
    const pikv::Status status = pipeline->start(what, target, where, stream);
    return status.ok() ? std::string("started") : std::string(status.message());
  };
  CHECK(start_error(foreign, on_device(cache), rows).find("another backend") != std::string::npos);
  CHECK(start_error(composition, on_device(cache), SlotMap::consecutive(0, 57)).find("slots for 57 rows") !=
        std::string::npos);
  CHECK(start_error(composition, cache.view(), rows) != "started");  // a target in host memory
  pikv::KvView bad = on_device(cache);
  bad.layout.k.layer = 1;  // layers upon one another
  CHECK(start_error(composition, bad, rows) != "started");
  CHECK(pipeline->wait_layer(0, stream).message() == "layer pipeline: no composition has been started");
  REQUIRE(device.backend.synchronize(stream).ok());
  CHECK(cache == untouched);
  CHECK(start_error(composition, on_device(cache), rows) == "started");
  REQUIRE(pipeline->wait_layer(2, stream).ok());
  REQUIRE(device.backend.synchronize(stream).ok());
  CHECK(cache == placed_at_once(device, composition, rows));
}
