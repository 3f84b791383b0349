// The store, the host tier and the layer pipeline over a real device: what reaches the engine's pages equals what the
// CPU backend puts there, whichever way it came.
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/device_mirror.hpp"
#include "pikv/detail/half.hpp"
#include "pikv/pikv.hpp"

namespace {

using test_support::gpu_or_skip;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr pikv::KvGeometry kGeometry{
    .num_layers = 5, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kBFloat16};
constexpr std::int64_t kChunkTokens = 48;
constexpr std::int64_t kNumChunks = 4;
constexpr std::int64_t kRows = kChunkTokens * kNumChunks + 3;

std::vector<pikv::TokenId> made_up_tokens(std::int64_t first, std::int64_t count) {
  std::vector<pikv::TokenId> tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), static_cast<pikv::TokenId>(first));
  return tokens;
}

/// Semantic keys and values of a chunk, as a plain slab.
std::vector<std::uint16_t> made_up_slab(std::uint32_t seed) {
  std::vector<std::uint16_t> slab(static_cast<std::size_t>(kChunkTokens * kGeometry.elements_per_token()));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (std::uint16_t& bits : slab) bits = pikv::detail::float_to_bfloat16(normal(random));
  return slab;
}

pikv::ChunkKeyer make_keyer(const pikv::RopeConfig& rope) {
  const std::array<std::byte, 32> secret{};
  return pikv::ChunkKeyer::create({pikv::ModelFingerprint{}, kGeometry, rope, "private:test", secret}).value();
}

pikv::Prompt make_prompt() {
  pikv::Prompt prompt;
  for (std::int64_t chunk : {2, 0, 3, 1}) {
    prompt.add_chunk(made_up_tokens(chunk * kChunkTokens, kChunkTokens), pikv::ChunkRecipe::alone());
  }
  prompt.add_fresh(made_up_tokens(100000, 3));
  return prompt;
}

void insert_chunks(pikv::Store& store, pikv::Backend& backend, const pikv::ChunkKeyer& keyer) {
  for (std::int64_t chunk = 0; chunk < kNumChunks; ++chunk) {
    const auto tokens = made_up_tokens(chunk * kChunkTokens, kChunkTokens);
    const auto slab = made_up_slab(static_cast<std::uint32_t>(chunk));
    auto writer = store.begin_insert(keyer.key(pikv::ChunkRecipe::alone(), tokens), pikv::ChunkRecipe::alone(), tokens);
    REQUIRE_MESSAGE(writer.ok(), writer.status().to_string());
    REQUIRE(writer->outcome() == pikv::InsertOutcome::kInserted);
    REQUIRE(backend.copy_async(writer->slab().data, slab.data(), slab.size() * 2, kStream).ok());
    REQUIRE(backend.synchronize(kStream).ok());
    const auto committed = writer->commit();
    REQUIRE_MESSAGE(committed.ok(), committed.status().to_string());
  }
}

/// Pages of rows, one slot each, on the host.
pikv::KvView host_view(std::vector<std::uint16_t>& pages) {
  pages.assign(static_cast<std::size_t>(kRows * kGeometry.elements_per_token()), 0);
  pikv::KvView view{.layout = pikv::nhd_pages(kGeometry, 1, kRows),
                    .k_base = reinterpret_cast<std::byte*>(pages.data())};
  view.v_base = view.k_base + pages.size();
  view.num_slots = kRows;
  return view;
}

/// What the CPU backend places for a store that encodes as `encoding`.
std::vector<std::uint16_t> expected_pages(const pikv::RopeTable& table, const pikv::ChunkKeyer& keyer,
                                          pikv::SlabFormat format) {
  const auto cpu = pikv::make_cpu_backend();
  pikv::HostTierOptions tier_options{.geometry = kGeometry, .capacity_bytes = 64 << 20};
  tier_options.encoding.format = format;
  tier_options.backend = cpu.get();
  const auto tier = pikv::make_host_tier(tier_options).value();
  pikv::StoreOptions options{.geometry = kGeometry, .capacity_bytes = 64 << 20};
  options.tiers.push_back(tier);
  const auto store = pikv::Store::create(std::move(options)).value();
  insert_chunks(*store, *cpu, keyer);
  // Out of the tier's chunks, so that its format shows.
  std::vector<std::uint16_t> pages;
  const pikv::KvView view = host_view(pages);
  std::int64_t row = 0;
  for (std::int64_t chunk : {2, 0, 3, 1}) {
    const auto tokens = made_up_tokens(chunk * kChunkTokens, kChunkTokens);
    const pikv::ChunkHandle resident = tier->resident(keyer.key(pikv::ChunkRecipe::alone(), tokens), tokens);
    REQUIRE(resident != nullptr);
    pikv::KvRun run;
    run.slab = resident->slab_view();
    run.source_slots = pikv::SlotMap::consecutive(0, kChunkTokens);
    run.target_slots = pikv::SlotMap::consecutive(row, kChunkTokens);
    run.positions = pikv::PositionMap::consecutive(static_cast<pikv::Position>(row));
    const pikv::KvTransfer transfer{.geometry = kGeometry,
                                    .runs = {&run, 1},
                                    .target = view,
                                    .rope = table.view(),
                                    .layer_begin = 0,
                                    .layer_end = kGeometry.num_layers};
    REQUIRE(cpu->reanchor_async(transfer, kStream).ok());
    row += kChunkTokens;
  }
  return pages;
}

TEST_CASE("from device memory at once, and from page-locked memory layer by layer, in every format") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto pinned = pikv::make_cuda_pinned_memory(std::size_t{1} << 20).value();
  const pikv::RopeConfig rope(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  const pikv::RopeTable table = pikv::RopeTable::build(rope, kGeometry.rotary_dim, 512).value();
  const pikv::RopeTable device_table = pikv::copy_table(table, *gpu, gpu->memory_resource()).value();
  const pikv::ChunkKeyer keyer = make_keyer(rope);
  const auto engine_stream = gpu->create_stream().value();

  for (const pikv::SlabFormat format :
       {pikv::SlabFormat::kPlain, pikv::SlabFormat::kFloat8, pikv::SlabFormat::kInt8, pikv::SlabFormat::kInt4}) {
    for (const bool from_host : {false, true}) {
      if (!from_host && format != pikv::SlabFormat::kPlain) continue;
      CAPTURE(slab_format_name(format));
      CAPTURE(from_host);
      pikv::HostTierOptions tier_options{.geometry = kGeometry, .capacity_bytes = 64 << 20};
      tier_options.memory = pinned.get();
      tier_options.encoding.format = format;
      tier_options.backend = gpu;
      const auto tier = pikv::make_host_tier(tier_options).value();
      pikv::StoreOptions options{.geometry = kGeometry, .capacity_bytes = 64 << 20};
      // Room for one chunk in device memory: the others are only in the tier by the time the prompt comes.
      if (from_host) options.capacity_bytes = kChunkTokens * kGeometry.bytes_per_token() * 3 / 2;
      options.memory = &gpu->memory_resource();
      options.tiers.push_back(tier);
      const auto store = pikv::Store::create(std::move(options)).value();
      insert_chunks(*store, *gpu, keyer);
      if (from_host) {  // the last one leaves device memory too
        const auto tokens = made_up_tokens(900000, kChunkTokens);
        (void)store->begin_insert(keyer.key(pikv::ChunkRecipe::alone(), tokens), pikv::ChunkRecipe::alone(), tokens);
      }
      const auto composer = pikv::Composer::create(*store, *gpu, keyer, device_table).value();
      const auto composition = composer.compose(make_prompt()).value();
      REQUIRE(composition.plan().stats().computed_tokens() == 3);

      std::vector<std::uint16_t> pages;
      pikv::KvView view = host_view(pages);
      auto buffer = pikv::Buffer::allocate(pages.size() * 2, gpu->memory_resource(), kStream).value();
      REQUIRE(gpu->copy_async(buffer.data(), pages.data(), pages.size() * 2, kStream).ok());
      REQUIRE(gpu->synchronize(kStream).ok());
      view.v_base = buffer.data() + (view.v_base - view.k_base);
      view.k_base = buffer.data();
      view.space = pikv::MemorySpace::kDevice;
      const pikv::SlotMap rows = pikv::SlotMap::consecutive(0, kRows);
      const std::int64_t slot_bytes = pikv::LayerPipeline::required_slot_bytes(composition);
      CHECK((slot_bytes > 0) == from_host);
      if (from_host) {
        auto pipeline = pikv::LayerPipeline::create(*gpu, kGeometry, {.slot_bytes = slot_bytes}).value();
        for (int again = 0; again < 3; ++again) {
          const pikv::Status started = pipeline.start(composition, view, rows, engine_stream->ref());
          REQUIRE_MESSAGE(started.ok(), started.to_string());
        }
        for (std::int32_t layer = 0; layer < kGeometry.num_layers; ++layer) {
          REQUIRE(pipeline.wait_layer(layer, engine_stream->ref()).ok());
        }
        REQUIRE(gpu->synchronize(engine_stream->ref()).ok());
      } else {
        REQUIRE(composition.place_async(view, rows, engine_stream->ref()).ok());
        REQUIRE(gpu->synchronize(engine_stream->ref()).ok());
      }
      REQUIRE(gpu->copy_async(pages.data(), buffer.data(), pages.size() * 2, kStream).ok());
      REQUIRE(gpu->synchronize(kStream).ok());
      CHECK(pages == expected_pages(table, keyer, format));
    }
  }
}

TEST_CASE("page-locked memory is reused, joined, and refuses what cannot be") {
  if (gpu_or_skip() == nullptr) return;
  const auto pinned = pikv::make_cuda_pinned_memory(std::size_t{1} << 16).value();
  CHECK(pinned->space() == pikv::MemorySpace::kPinnedHost);
  void* const first = pinned->allocate_async(40000, kStream).value();
  void* const second = pinned->allocate_async(20000, kStream).value();
  CHECK(first != second);
  pinned->deallocate_async(first, 40000, kStream);
  pinned->deallocate_async(second, 20000, kStream);
  CHECK(pinned->allocate_async(60000, kStream).value() == first);  // only when the two were joined
  CHECK(pinned->allocate_async(0, kStream).status().code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(pinned->allocate_async(std::size_t{1} << 62, kStream).status().code() == pikv::ErrorCode::kOutOfMemory);
}

TEST_CASE("without the asked-for device the status says so") {
  const auto backend = pikv::make_cuda_backend({.device = 1000});
  REQUIRE(!backend.ok());
  CHECK(backend.status().code() == pikv::ErrorCode::kUnavailable);
  CHECK(!backend.status().message().empty());
}

}  // namespace
