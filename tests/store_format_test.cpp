// Stores whose chunks are kept in fewer bits: sizes, capture, composition, and what plans say of them.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "store_core.hpp"
#include "support/fake_tier.hpp"
#include "support/kv_world.hpp"
#include "support/tier_world.hpp"

namespace {

using pikv::ChunkHandle;
using pikv::ChunkRecipe;
using pikv::LookupState;
using pikv::MissReason;
using pikv::PlanPiece;
using pikv::Prompt;
using pikv::Provenance;
using pikv::SlabFormat;
using pikv::SlotMap;
using pikv::StreamRef;
using test_support::capture_chunk;
using test_support::EngineCache;
using test_support::FakeTier;
using test_support::Fault;
using test_support::kAllFormats;
using test_support::make_store;
using test_support::token_run;
using test_support::World;

constexpr StreamRef kStream = StreamRef::legacy_default();

/// The slab that encoding all layers of a plain chunk at once gives.
std::vector<std::byte> encoded(World& world, const pikv::Chunk& plain, SlabFormat format) {
  const std::int64_t num_tokens = plain.num_tokens();
  std::vector<std::byte> room(
      static_cast<std::size_t>(
          pikv::slab_sections(world.geometry(), format, num_tokens).slab_bytes(world.geometry().num_layers)) +
      64);
  const auto aligned = (reinterpret_cast<std::uintptr_t>(room.data()) + 63) / 64 * 64;
  const std::size_t shift = aligned - reinterpret_cast<std::uintptr_t>(room.data());
  const pikv::SlabEncode encode{.geometry = world.geometry(),
                                .source = plain.view(),
                                .source_slots = SlotMap::consecutive(0, num_tokens),
                                .rope = {},
                                .target = {room.data() + shift, num_tokens, {.format = format}},
                                .layer_begin = 0,
                                .layer_end = world.geometry().num_layers};
  REQUIRE(world.backend().encode_async(encode, kStream).ok());
  return {room.begin() + static_cast<std::ptrdiff_t>(shift), room.end() - static_cast<std::ptrdiff_t>(64 - shift)};
}

/// Whether two slabs hold the same tokens: what lies between sections is nobody's.
bool same_rows(World& world, const pikv::ConstSlabView& a, const pikv::ConstSlabView& b) {
  std::vector<EngineCache> caches;
  for (const pikv::ConstSlabView& slab : {a, b}) {
    EngineCache& cache = caches.emplace_back(world.geometry(), pikv::DType::kFloat32, 8, 8);
    const pikv::KvRun run{.source = {},
                          .slab = slab,
                          .source_slots = SlotMap::consecutive(0, slab.num_tokens),
                          .target_slots = SlotMap::consecutive(0, slab.num_tokens)};
    REQUIRE(world.backend()
                .reanchor_async({.geometry = world.geometry(),
                                 .runs = {&run, 1},
                                 .target = cache.view(),
                                 .rope = {},
                                 .layer_begin = 0,
                                 .layer_end = world.geometry().num_layers},
                                kStream)
                .ok());
  }
  return caches[0] == caches[1];
}

}  // namespace

TEST_CASE("formats: a chunk has the size that its format says, and only plain ones are views") {
  World world;
  for (const SlabFormat format : kAllFormats) {
    CAPTURE(std::string(pikv::slab_format_name(format)));
    const auto store = make_store(world, pikv::host_memory_resource(), {}, format);
    CHECK(store->encoding().format == format);
    const auto tokens = token_run(1000, 37);
    const std::int64_t slab_bytes = pikv::slab_sections(world.geometry(), format, 37).slab_bytes(3);
    auto writer = std::move(store
                                ->begin_insert(test_support::World().keyer().key(ChunkRecipe::alone(), tokens),
                                               ChunkRecipe::alone(), tokens, kStream)
                                .value());
    const pikv::SlabView slab = writer.slab();
    CHECK(slab.num_tokens == 37);
    CHECK(slab.encoding.format == format);
    CHECK((writer.view().k_base != nullptr) == (format == SlabFormat::kPlain));
    std::memset(slab.data, 0, static_cast<std::size_t>(slab_bytes));
    const ChunkHandle chunk = writer.commit().value();
    CHECK(static_cast<std::int64_t>(chunk->slab().size()) == slab_bytes);
    CHECK(chunk->footprint_bytes() == slab_bytes + 37 * 4 + pikv::Chunk::kBookkeepingBytes);
    CHECK(store->stats().used_bytes == chunk->footprint_bytes());
    CHECK(chunk->slab_view().data == chunk->slab().data());
    CHECK(chunk->is_lossy() == (format != SlabFormat::kPlain));
    CHECK((chunk->view().k_base != nullptr) == (format == SlabFormat::kPlain));
  }
  pikv::StoreOptions options{.geometry = world.geometry(), .capacity_bytes = 1 << 20};
  options.encoding.format = static_cast<SlabFormat>(4);
  CHECK(pikv::Store::create(std::move(options)).status().message() == "Store: encoding.format is 4, not a format");
}

TEST_CASE("formats: sizes of absurd chunks are refused, not wrapped around") {
  const pikv::KvGeometry geometries[] = {
      test_support::small_geometry(),
      {.num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .rotary_dim = 2, .dtype = pikv::DType::kFloat16},
      {.num_layers = 1 << 15, .num_kv_heads = 1 << 10, .head_dim = 1 << 12, .rotary_dim = 2},
  };
  __extension__ typedef __int128 Wide;
  for (const pikv::KvGeometry& geometry : geometries) {
    REQUIRE(pikv::validate(geometry).ok());
    for (const SlabFormat format : kAllFormats) {
      for (const std::int64_t capacity :
           {std::int64_t{1}, std::int64_t{1} << 20, std::int64_t{1} << 50, std::numeric_limits<std::int64_t>::max()}) {
        pikv::StoreOptions options{.geometry = geometry, .capacity_bytes = capacity};
        options.encoding.format = format;
        const pikv::detail::StoreCore core(std::move(options));
        for (int shift = 0; shift < 64; ++shift) {
          for (const std::int64_t more : {-1, 0, 1}) {
            const std::size_t num_tokens = (std::size_t{1} << shift) + static_cast<std::size_t>(more);
            if (num_tokens == 0) continue;
            CAPTURE(num_tokens);
            CAPTURE(capacity);
            CAPTURE(std::string(pikv::slab_format_name(format)));
            const auto size = core.chunk_size(num_tokens);
            // A bound from below that needs no care: no format takes less than an eighth.
            const Wide least = Wide{num_tokens} * (geometry.bytes_per_token() / 8) + Wide{num_tokens} * 4;
            if (least > capacity) CHECK(!size.has_value());
            if (!size.has_value()) continue;
            CHECK(size->slab_bytes > 0);
            CHECK(Wide{size->slab_bytes} >= Wide{num_tokens} * (geometry.bytes_per_token() / 8));
            CHECK(size->footprint_bytes <= capacity);
            CHECK(size->footprint_bytes ==
                  size->slab_bytes + static_cast<std::int64_t>(num_tokens) * 4 + pikv::Chunk::kBookkeepingBytes);
          }
        }
        if (capacity == std::int64_t{1} << 50 && geometry.bytes_per_token() < 1024) CHECK(core.chunk_size(1000));
      }
    }
  }
}

TEST_CASE("formats: capture encodes layer by layer what encoding at once gives") {
  World world;
  const auto tokens = token_run(1000, 37);
  const ChunkHandle plain = world.put(ChunkRecipe::alone(), tokens);
  for (const SlabFormat format : kAllFormats) {
    CAPTURE(std::string(pikv::slab_format_name(format)));
    const auto store = make_store(world, pikv::host_memory_resource(), {}, format);
    const ChunkHandle chunk = capture_chunk(*store, world.backend(), world, ChunkRecipe::alone(), tokens);
    REQUIRE(chunk != nullptr);
    std::vector<std::byte> expected = encoded(world, *plain, format);
    REQUIRE(expected.size() == chunk->slab().size());
    pikv::Buffer aligned = pikv::Buffer::allocate(expected.size(), pikv::host_memory_resource(), kStream).value();
    std::memcpy(aligned.data(), expected.data(), expected.size());
    CHECK(same_rows(world, chunk->slab_view(), {aligned.data(), 37, {.format = format}}));
    if (format != SlabFormat::kPlain) CHECK(!same_rows(world, chunk->slab_view(), plain->slab_view()));
  }
}

TEST_CASE("formats: capture from an engine's pages turns keys back and encodes them") {
  World world;
  const auto tokens = token_run(1000, 21);
  const ChunkHandle plain = world.put(ChunkRecipe::alone(), tokens);
  EngineCache pages(world.geometry(), pikv::DType::kFloat32, 8, 8);
  const pikv::KvRun run{.source = {},
                        .slab = plain->slab_view(),
                        .source_slots = SlotMap::consecutive(0, 21),
                        .target_slots = SlotMap::consecutive(5, 21),
                        .positions = pikv::PositionMap::consecutive(30)};
  REQUIRE(world.backend()
              .reanchor_async({.geometry = world.geometry(),
                               .runs = {&run, 1},
                               .target = pages.view(),
                               .rope = world.table().view(),
                               .layer_begin = 0,
                               .layer_end = 3},
                              kStream)
              .ok());
  for (const SlabFormat format : {SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4}) {
    CAPTURE(std::string(pikv::slab_format_name(format)));
    const auto store = make_store(world, pikv::host_memory_resource(), {}, format);
    const pikv::CaptureItem item{.key = plain->key(),
                                 .recipe = ChunkRecipe::alone(),
                                 .tokens = tokens,
                                 .source_slots = SlotMap::consecutive(5, 21),
                                 .positions = pikv::PositionMap::consecutive(30)};
    auto capture = std::move(pikv::Capture::begin(*store, world.backend(), {&item, 1}, kStream).value());
    for (const std::int32_t layer : {2, 0, 1}) {
      REQUIRE(capture.take_rotated_layer_async(layer, std::as_const(pages).view(), world.table().view(), kStream).ok());
    }
    const ChunkHandle chunk = capture.commit().value().front().chunk;
    pikv::Buffer slab = pikv::Buffer::allocate(chunk->slab().size(), pikv::host_memory_resource(), kStream).value();
    const pikv::SlabView target{slab.data(), 21, {.format = format}};
    REQUIRE(world.backend()
                .encode_async({.geometry = world.geometry(),
                               .source = std::as_const(pages).view(),
                               .source_slots = SlotMap::consecutive(5, 21),
                               .positions = pikv::PositionMap::consecutive(30),
                               .rope = world.table().view(),
                               .target = target,
                               .layer_begin = 0,
                               .layer_end = 3},
                              kStream)
                .ok());
    CHECK(same_rows(world, chunk->slab_view(), pikv::as_const(target)));
  }
}

TEST_CASE("formats: chunks of a lossy store are never exact, and are placed as they decode") {
  for (const SlabFormat format : kAllFormats) {
    CAPTURE(std::string(pikv::slab_format_name(format)));
    World world;
    const bool lossy = format != SlabFormat::kPlain;
    const auto store = make_store(world, pikv::host_memory_resource(), {}, format);
    const auto composer =
        pikv::Composer::create(*store, world.backend(), world.keyer(), world.table(), {.prefix_block_tokens = 8});
    REQUIRE(composer.ok());
    // Two blocks of exact prefix, then the chunk of which they are part, alone at the start, then another.
    const auto doc_a = token_run(1000, 20);
    const auto doc_b = token_run(2000, 9);
    Prompt prompt;
    prompt.add_chunk(doc_a, ChunkRecipe::alone());
    prompt.add_chunk(doc_b, ChunkRecipe::alone());
    prompt.add_fresh(token_run(50, 4));
    pikv::ContextDigest context = world.keyer().empty_context();
    for (std::size_t block = 0; block < 2; ++block) {
      const auto tokens = prompt.tokens().subspan(block * 8, 8);
      REQUIRE(capture_chunk(*store, world.backend(), world, ChunkRecipe::exact_context(context), tokens) != nullptr);
      context = world.keyer().extend(context, tokens);
    }
    REQUIRE(capture_chunk(*store, world.backend(), world, ChunkRecipe::alone(), doc_a) != nullptr);
    REQUIRE(capture_chunk(*store, world.backend(), world, ChunkRecipe::alone(), doc_b) != nullptr);

    const auto composition = composer->compose(prompt);
    REQUIRE(composition.ok());
    const pikv::CompositionPlan& plan = composition->plan();
    REQUIRE(plan.pieces().size() == 5);
    CHECK(plan.pieces()[0].source == PlanPiece::Source::kExactPrefix);
    CHECK(plan.pieces()[1].source == PlanPiece::Source::kExactPrefix);
    CHECK(plan.provenance(0) == (lossy ? Provenance::kApproximate : Provenance::kExactPrefix));
    CHECK(plan.provenance(15) == (lossy ? Provenance::kApproximate : Provenance::kExactPrefix));
    CHECK(plan.provenance(17) == (lossy ? Provenance::kApproximate : Provenance::kExactSegment));
    CHECK(plan.exact_rows() == (lossy ? 0 : 20));
    CHECK(plan.stats().reused_tokens() == 29);
    CHECK(plan.stats().approximate_tokens == (lossy ? 29 : 9));
    CHECK(pikv::exact_prefix_items(world.keyer(), plan, 8, SlotMap::consecutive(0, plan.num_rows())).empty());

    EngineCache cache(world.geometry(), pikv::DType::kFloat32, 8, 8), expected = cache;
    REQUIRE(composition->place_async(cache.view(), SlotMap::consecutive(0, plan.num_rows()), kStream).ok());
    for (const PlanPiece& piece : plan.pieces()) {
      if (!piece.cached()) continue;
      const pikv::KvRun run{.source = {},
                            .slab = store->peek(piece.key)->slab_view(),
                            .source_slots = SlotMap::consecutive(piece.chunk_first_token, piece.num_rows()),
                            .target_slots = SlotMap::consecutive(piece.row_begin, piece.num_rows()),
                            .positions = pikv::PositionMap::consecutive(static_cast<pikv::Position>(piece.row_begin))};
      REQUIRE(world.backend()
                  .reanchor_async({.geometry = world.geometry(),
                                   .runs = {&run, 1},
                                   .target = expected.view(),
                                   .rope = world.table().view(),
                                   .layer_begin = 0,
                                   .layer_end = 3},
                                  kStream)
                  .ok());
    }
    CHECK(cache == expected);
  }
}

TEST_CASE("formats: a chunk that turns up lossy at load makes everything behind it approximate") {
  World world;
  const auto tier = test_support::make_tier(world, world.backend(), pikv::host_memory_resource(), SlabFormat::kInt8);
  const auto tokens = token_run(1000, 24);
  Prompt prompt;
  prompt.add_chunk(tokens, ChunkRecipe::alone());
  prompt.add_fresh(token_run(50, 4));
  const auto store = make_store(world, pikv::host_memory_resource(), {tier});
  const auto composer =
      pikv::Composer::create(*store, world.backend(), world.keyer(), world.table(), {.prefix_block_tokens = 8}).value();
  std::vector<pikv::ChunkKey> keys;
  pikv::ContextDigest context = world.keyer().empty_context();
  for (std::size_t block = 0; block < 2; ++block) {
    const auto part = prompt.tokens().subspan(block * 8, 8);
    keys.push_back(world.keyer().key(ChunkRecipe::exact_context(context), part));
    REQUIRE(capture_chunk(*store, world.backend(), world, ChunkRecipe::exact_context(context), part) != nullptr);
    context = world.keyer().extend(context, part);
  }
  REQUIRE(capture_chunk(*store, world.backend(), world, ChunkRecipe::alone(), tokens) != nullptr);
  auto planned = composer.plan(prompt);
  REQUIRE(planned.ok());
  REQUIRE(planned->plan.exact_rows() == 28);
  REQUIRE(planned->plan.pieces().size() == 4);

  // The same plan, brought to a store that has only the second block in full.
  const auto lean = make_store(world, pikv::host_memory_resource(), {tier});
  const auto lean_composer =
      pikv::Composer::create(*lean, world.backend(), world.keyer(), world.table(), {.prefix_block_tokens = 8}).value();
  planned->lookups.clear();
  const auto composition = lean_composer.load(*planned);
  REQUIRE(composition.ok());
  CHECK(composition->plan().exact_rows() == 0);
  CHECK(composition->plan().stats().approximate_tokens == 24);
  CHECK(composition->plan().pieces()[0].source == PlanPiece::Source::kExactPrefix);
  CHECK(lean->stats().resident_hits == 3);

  // And planned where only residents are found: approximate from the start.
  const auto replanned = lean_composer.plan(prompt);
  REQUIRE(replanned.ok());
  CHECK(replanned->plan.exact_rows() == 0);
  CHECK(replanned->plan.stats().approximate_tokens == 24);
}

TEST_CASE("formats: a fetch that is pending is planned as what the store keeps") {
  for (const SlabFormat format : {SlabFormat::kPlain, SlabFormat::kInt8}) {
    World world;
    const auto tier = std::make_shared<FakeTier>();
    const auto tokens = token_run(1000, 12);
    {
      const auto feeder = make_store(world, pikv::host_memory_resource(), {tier}, format);
      REQUIRE(capture_chunk(*feeder, world.backend(), world, ChunkRecipe::alone(), tokens) != nullptr);
    }
    const auto store = make_store(world, pikv::host_memory_resource(), {tier}, format);
    const auto composer = pikv::Composer::create(*store, world.backend(), world.keyer(), world.table()).value();
    Prompt prompt;
    prompt.add_chunk(tokens, ChunkRecipe::alone());
    prompt.add_fresh(token_run(1, 2));
    const auto planned = composer.plan(prompt);
    REQUIRE(planned.ok());
    REQUIRE(planned->lookups[0].state == LookupState::kPending);
    const Provenance expected = format == SlabFormat::kPlain ? Provenance::kExactSegment : Provenance::kApproximate;
    CHECK(planned->plan.provenance(0) == expected);
    const auto composition = composer.load(*planned);
    REQUIRE(composition.ok());
    CHECK(composition->plan().provenance(0) == expected);
  }
}

TEST_CASE("formats: what a tier holds in another encoding does not enter memory, and stays there") {
  World world;
  const auto odd = std::make_shared<FakeTier>();
  const auto right = std::make_shared<FakeTier>();
  const auto tokens = token_run(1000, 12);
  const auto key = world.keyer().key(ChunkRecipe::alone(), tokens);
  {
    const auto feeder = make_store(world, pikv::host_memory_resource(), {odd}, SlabFormat::kInt8);
    REQUIRE(capture_chunk(*feeder, world.backend(), world, ChunkRecipe::alone(), tokens) != nullptr);
  }
  const auto store = make_store(world, pikv::host_memory_resource(), {odd, right});
  CHECK(store->acquire(key, tokens).reason == MissReason::kOtherEncoding);
  CHECK(std::string(pikv::miss_reason_name(MissReason::kOtherEncoding)) == "OtherEncoding");
  CHECK(odd->holds(key));
  CHECK(store->stats().verify_failures == 0);
  CHECK(store->stats().tier_failures == 0);
  CHECK(store->stats().used_bytes == 0);
  {
    const auto feeder = make_store(world, pikv::host_memory_resource(), {right});
    REQUIRE(capture_chunk(*feeder, world.backend(), world, ChunkRecipe::alone(), tokens) != nullptr);
  }
  const auto found = store->acquire(key, tokens);
  REQUIRE(found.state == LookupState::kHit);
  CHECK(!found.chunk->is_lossy());
}

TEST_CASE("formats: an encoded slab of the wrong size is refused and dropped") {
  World world;
  for (const SlabFormat format : kAllFormats) {
    const auto tier = std::make_shared<FakeTier>();
    const auto tokens = token_run(1000, 12);
    const auto key = world.keyer().key(ChunkRecipe::alone(), tokens);
    {
      const auto feeder = make_store(world, pikv::host_memory_resource(), {tier}, format);
      REQUIRE(capture_chunk(*feeder, world.backend(), world, ChunkRecipe::alone(), tokens) != nullptr);
    }
    const auto store = make_store(world, pikv::host_memory_resource(), {tier}, format);
    tier->fault = Fault::kWrongSize;
    CHECK(store->acquire(key, tokens).reason == MissReason::kVerifyFailed);
    CHECK(store->stats().verify_failures == 1);
    CHECK(!tier->holds(key));
  }
}
