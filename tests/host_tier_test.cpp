// The host tier, what a store does with chunks that are resident in it, and prefetching out of it.
#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pikv/host_tier.hpp"
#include "support/fake_tier.hpp"
#include "support/kv_world.hpp"
#include "support/lazy_backend.hpp"
#include "support/tier_world.hpp"

namespace {

using pikv::ChunkHandle;
using pikv::ChunkRecipe;
using pikv::ErrorCode;
using pikv::Lookup;
using pikv::LookupState;
using pikv::MemorySpace;
using pikv::MissReason;
using pikv::SlabFormat;
using pikv::StreamRef;
using test_support::capture_chunk;
using test_support::FakeTier;
using test_support::kAllFormats;
using test_support::LazyBackend;
using test_support::LazyOrder;
using test_support::make_store;
using test_support::make_tier;
using test_support::NamedMemory;
using test_support::token_run;
using test_support::World;

constexpr StreamRef kStream = StreamRef::legacy_default();

std::vector<std::byte> bytes_of(const pikv::Chunk& chunk) { return {chunk.slab().begin(), chunk.slab().end()}; }

/// A device with page-locked memory beside it.
struct Device {
  explicit Device(SlabFormat tier_format, MemorySpace tier_space = MemorySpace::kPinnedHost)
      : host(tier_space), backend(LazyOrder::kRandom, 7), tier(make_tier(world, backend, host, tier_format)) {}

  World world;
  NamedMemory host;
  LazyBackend backend;
  std::shared_ptr<pikv::Tier> tier;
  const std::vector<pikv::TokenId> tokens = token_run(1000, 37);
  const pikv::ChunkKey key = world.keyer().key(ChunkRecipe::alone(), tokens);

  /// Puts the chunk into the tier alone.
  void feed(SlabFormat format = SlabFormat::kPlain) {
    const auto feeder = make_store(world, backend.memory_resource(), {tier}, format);
    REQUIRE(capture_chunk(*feeder, backend, world, ChunkRecipe::alone(), tokens) != nullptr);
    REQUIRE(feeder->stats().tier_failures == 0);
  }
};

}  // namespace

TEST_CASE("host tier: a chunk is kept in the tier's encoding, and used where it lies") {
  for (const SlabFormat format : kAllFormats) {
    CAPTURE(std::string(pikv::slab_format_name(format)));
    Device device(format);
    device.feed();
    CHECK(device.backend.memory().live_bytes() == 0);  // what encoding took on the device has gone back
    CHECK(device.tier->stats().num_chunks == 1);

    const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier});
    const Lookup found = store->lookup(device.key, device.tokens);
    REQUIRE(found.state == LookupState::kHit);
    CHECK(found.chunk->encoding().format == format);
    CHECK(found.chunk->slab_view().space == MemorySpace::kPinnedHost);
    CHECK(found.chunk->slab_resource() == &device.host);
    CHECK(device.tier->stats().used_bytes == found.chunk->footprint_bytes());
    CHECK(store->stats().resident_hits == 1);
    CHECK(store->stats().hits == 1);
    CHECK(store->stats().lookups == 1);
    CHECK(store->stats().hit_tokens == 37);
    CHECK(store->stats().fetches == 0);
    CHECK(store->stats().num_chunks == 0);

    // The same as a store of that encoding has.
    const auto peer = make_store(device.world, device.backend.memory_resource(), {}, format);
    const ChunkHandle same = capture_chunk(*peer, device.backend, device.world, ChunkRecipe::alone(), device.tokens);
    REQUIRE(same != nullptr);
    const pikv::SlabSections sections = pikv::slab_sections(device.world.geometry(), format, 37);
    for (std::int32_t layer = 0; layer < 3; ++layer) {
      const auto at = static_cast<std::size_t>(layer * sections.layer_bytes + sections.k_codes);
      const auto codes_bytes = static_cast<std::size_t>(37 * 2 * 16 * (format == SlabFormat::kPlain ? 2 : 1) /
                                                        (format == SlabFormat::kInt4 ? 2 : 1));
      CHECK(std::memcmp(found.chunk->slab().data() + at, same->slab().data() + at, codes_bytes) == 0);
    }
  }
}

TEST_CASE("host tier: an encoded store's chunks pass as they are") {
  for (const SlabFormat format : {SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4}) {
    Device device(format);
    device.feed(format);
    const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier}, format);
    const Lookup found = store->lookup(device.key, device.tokens);
    REQUIRE(found.state == LookupState::kHit);
    const ChunkHandle fetched = store->prefetch(device.key, device.tokens).wait();
    REQUIRE(fetched != nullptr);
    CHECK(fetched->slab_view().space == MemorySpace::kDevice);
    CHECK(bytes_of(*fetched) == bytes_of(*found.chunk));
    CHECK(fetched->encoding() == found.chunk->encoding());
  }
}

TEST_CASE("host tier: other conversions are unsupported and leave nothing behind") {
  Device device(SlabFormat::kPlain);
  const auto store = make_store(device.world, device.backend.memory_resource(), {}, SlabFormat::kInt8);
  const ChunkHandle chunk = capture_chunk(*store, device.backend, device.world, ChunkRecipe::alone(), device.tokens);
  REQUIRE(chunk != nullptr);
  const pikv::Status status = device.tier->put(chunk);
  CHECK(status.code() == ErrorCode::kUnsupported);
  CHECK(status.message().find("int8 where plain") != std::string_view::npos);
  CHECK(device.tier->put(nullptr).code() == ErrorCode::kInvalidArgument);
  CHECK(device.tier->stats().num_chunks == 0);
  CHECK(device.host.live_bytes() == 0);
}

TEST_CASE("host tier: prefetch brings a chunk up, and counts no look-up") {
  Device device(SlabFormat::kPlain);
  device.feed();
  const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier});
  const ChunkHandle fetched = store->prefetch(device.key, device.tokens).wait();
  REQUIRE(fetched != nullptr);
  CHECK(fetched->slab_view().space == MemorySpace::kDevice);
  CHECK(store->stats().lookups == 0);
  CHECK(store->stats().hits == 0);
  CHECK(store->stats().fetches == 1);
  CHECK(store->stats().num_chunks == 1);
  const Lookup found = store->lookup(device.key, device.tokens);
  REQUIRE(found.state == LookupState::kHit);
  CHECK(found.chunk == fetched);
  CHECK(store->stats().resident_hits == 0);
  CHECK(device.tier->stats().num_chunks == 1);
  CHECK(bytes_of(*fetched) == bytes_of(*device.tier->resident(device.key, device.tokens)));

  const pikv::FetchTicket again = store->prefetch(device.key, device.tokens);
  CHECK(again.wait() == fetched);
  CHECK(store->stats().fetches == 1);
  CHECK(!store->prefetch(device.key, token_run(2000, 37)).valid());
  CHECK(!store->prefetch(device.key, {}).valid());
  CHECK(store->contains(device.key));
  const auto without_tiers = make_store(device.world, device.backend.memory_resource());
  CHECK(!without_tiers->prefetch(device.key, device.tokens).valid());
}

TEST_CASE("host tier: a chunk of another encoding is not brought up, and look-ups meanwhile still use it") {
  Device device(SlabFormat::kInt8);
  device.feed();
  const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier});
  const pikv::FetchTicket ticket = store->prefetch(device.key, device.tokens);
  REQUIRE(ticket.valid());
  CHECK(store->lookup(device.key, device.tokens).state == LookupState::kHit);
  MissReason reason = MissReason::kNone;
  CHECK(ticket.wait(&reason) == nullptr);
  CHECK(reason == MissReason::kOtherEncoding);
  CHECK(device.backend.memory().live_bytes() == 0);
  CHECK(store->stats().used_bytes == 0);
  CHECK(store->stats().misses == 0);
  CHECK(store->lookup(device.key, device.tokens).state == LookupState::kHit);
}

TEST_CASE("host tier: memory that a device cannot read serves by fetches alone") {
  Device device(SlabFormat::kPlain, MemorySpace::kHost);
  device.feed();
  const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier});
  CHECK(device.tier->resident(device.key, device.tokens) == nullptr);
  const Lookup found = store->lookup(device.key, device.tokens);
  REQUIRE(found.state == LookupState::kPending);
  const ChunkHandle chunk = found.ticket.wait();
  REQUIRE(chunk != nullptr);
  CHECK(chunk->slab_view().space == MemorySpace::kDevice);
  CHECK(store->stats().resident_hits == 0);
}

TEST_CASE("host tier: an abandoned fetch is over before its memory goes back") {
  Device device(SlabFormat::kPlain);
  device.feed();
  const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier});
  { const pikv::FetchTicket ticket = store->prefetch(device.key, device.tokens); }
  CHECK(device.backend.memory().live_bytes() == 0);
  CHECK(store->stats().used_bytes == 0);
  const ChunkHandle chunk = store->prefetch(device.key, device.tokens).wait();  // on the stream used before
  REQUIRE(chunk != nullptr);
  CHECK(bytes_of(*chunk) == bytes_of(*device.tier->resident(device.key, device.tokens)));
}

TEST_CASE("host tier: capacity, least recently used out first, pins stay") {
  World world;
  NamedMemory memory(MemorySpace::kHost);
  const auto a = token_run(1000, 10), b = token_run(2000, 10), c = token_run(3000, 10);
  const std::int64_t footprint = 10 * (world.geometry().bytes_per_token() + 4) + pikv::Chunk::kBookkeepingBytes;
  const auto tier = make_tier(world, world.backend(), memory, SlabFormat::kPlain, 2 * footprint);
  const auto store = make_store(world, pikv::host_memory_resource());
  const auto put = [&](const std::vector<pikv::TokenId>& tokens) {
    return tier->put(capture_chunk(*store, world.backend(), world, ChunkRecipe::alone(), tokens));
  };
  const auto holds = [&](const std::vector<pikv::TokenId>& tokens) {
    return tier->resident(world.keyer().key(ChunkRecipe::alone(), tokens), tokens);
  };
  REQUIRE(put(a).ok());
  REQUIRE(put(b).ok());
  REQUIRE(put(b).ok());  // there already
  CHECK(tier->stats().num_chunks == 2);
  CHECK(tier->stats().used_bytes == 2 * footprint);
  CHECK(holds(a) != nullptr);  // and so b is the oldest
  REQUIRE(put(c).ok());
  CHECK(holds(b) == nullptr);
  const ChunkHandle pinned_a = holds(a), pinned_c = holds(c);
  REQUIRE(pinned_a != nullptr);
  REQUIRE(pinned_c != nullptr);
  CHECK(put(b).code() == ErrorCode::kQuotaExceeded);
  CHECK(tier->erase(pinned_a->key()).ok());
  CHECK(holds(a) == nullptr);
  CHECK(pinned_a->tokens().size() == 10);
  CHECK(tier->erase(pinned_a->key()).ok());
  CHECK(memory.live_bytes() == 2 * 10 * world.geometry().bytes_per_token());
}

TEST_CASE("host tier: an erased chunk is not resident any more") {
  Device device(SlabFormat::kPlain);
  device.feed();
  const auto store = make_store(device.world, device.backend.memory_resource(), {device.tier});
  REQUIRE(store->lookup(device.key, device.tokens).state == LookupState::kHit);
  REQUIRE(store->erase(device.key).ok());
  CHECK(device.tier->stats().num_chunks == 0);
  CHECK(store->acquire(device.key, device.tokens).reason == MissReason::kNotFound);
}

TEST_CASE("host tier: what is not what it should be is not handed out as resident") {
  /// Hands out whatever it is told to.
  class LyingTier final : public pikv::Tier {
   public:
    ChunkHandle chunk;
    int num_erases = 0;
    [[nodiscard]] std::string_view name() const noexcept override { return "lying"; }
    [[nodiscard]] pikv::Status put(const ChunkHandle&) override { return {}; }
    [[nodiscard]] std::unique_ptr<pikv::TierFetch> begin_fetch(const pikv::ChunkKey&, pikv::MemoryResource&) override {
      return nullptr;
    }
    [[nodiscard]] ChunkHandle resident(const pikv::ChunkKey&, std::span<const pikv::TokenId>) override { return chunk; }
    [[nodiscard]] pikv::Status erase(const pikv::ChunkKey&) override { return ++num_erases, pikv::Status(); }
    [[nodiscard]] pikv::TierStats stats() const override { return {}; }
  };
  World world;
  const auto tier = std::make_shared<LyingTier>();
  const auto right = token_run(1000, 5), wrong = token_run(1001, 5);
  const auto key = world.keyer().key(ChunkRecipe::alone(), right);
  const auto store = make_store(world, pikv::host_memory_resource(), {tier});
  const auto tell = [&](const pikv::ChunkKey& k, const std::vector<pikv::TokenId>& tokens,
                        const pikv::KvGeometry& geometry, std::size_t slab_bytes, SlabFormat format) {
    tier->chunk = std::make_shared<const pikv::Chunk>(
        k, ChunkRecipe::alone(), tokens, geometry,
        pikv::Buffer::allocate(slab_bytes, pikv::host_memory_resource(), kStream).value(),
        pikv::SlabEncoding{.format = format});
    return store->acquire(key, right).state;
  };
  const pikv::KvGeometry geometry = world.geometry();
  pikv::KvGeometry other = geometry;
  other.rotary_dim = 4;
  const auto bytes = static_cast<std::size_t>(5 * geometry.bytes_per_token());
  const auto int8_bytes = static_cast<std::size_t>(pikv::slab_sections(geometry, SlabFormat::kInt8, 5).slab_bytes(3));
  CHECK(tell(key, right, geometry, bytes, SlabFormat::kPlain) == LookupState::kHit);
  CHECK(tell(key, right, geometry, int8_bytes, SlabFormat::kInt8) == LookupState::kHit);
  CHECK(tell(key, wrong, geometry, bytes, SlabFormat::kPlain) == LookupState::kMiss);
  CHECK(tell(world.keyer().key(ChunkRecipe::alone(), wrong), right, geometry, bytes, SlabFormat::kPlain) ==
        LookupState::kMiss);
  CHECK(tell(key, right, other, bytes, SlabFormat::kPlain) == LookupState::kMiss);
  CHECK(tell(key, right, geometry, bytes - 1, SlabFormat::kPlain) == LookupState::kMiss);
  CHECK(tell(key, right, geometry, bytes, SlabFormat::kInt8) == LookupState::kMiss);
  CHECK(tell(key, right, geometry, bytes, static_cast<SlabFormat>(9)) == LookupState::kMiss);
  CHECK(store->stats().resident_hits == 2);
  CHECK(store->stats().hits == 2);
  CHECK(store->stats().misses == 6);
  CHECK(store->stats().lookups == 8);
}

TEST_CASE("host tier: wrong options are refused by name") {
  World world;
  NamedMemory device_memory(MemorySpace::kDevice);
  const auto message = [](const pikv::HostTierOptions& options) {
    const auto made = pikv::make_host_tier(options);
    return made.ok() ? std::string("made") : std::string(made.status().message());
  };
  const pikv::HostTierOptions good{
      .geometry = world.geometry(), .capacity_bytes = 1 << 20, .backend = &world.backend()};
  CHECK(message(good) == "made");
  pikv::HostTierOptions bad = good;
  bad.backend = nullptr;
  CHECK(message(bad) == "host tier: backend is null");
  bad = good;
  bad.memory = &device_memory;
  CHECK(message(bad) == "host tier: memory is a device's");
  bad = good;
  bad.capacity_bytes = 0;
  CHECK(message(bad).find("capacity_bytes is 0") != std::string::npos);
  bad = good;
  bad.encoding.format = static_cast<SlabFormat>(7);
  CHECK(message(bad).find("encoding.format is 7") != std::string::npos);
}

TEST_CASE("host tier: from many threads, right bytes, and nothing that was erased before the look-up began") {
  World world;
  NamedMemory memory(MemorySpace::kHost);
  const auto tier = make_tier(world, world.backend(), memory, SlabFormat::kPlain, 1 << 16);
  const auto store = make_store(world, pikv::host_memory_resource(), {tier}, SlabFormat::kPlain, 1 << 14);
  constexpr int kNumChunks = 12;
  // Each chunk belongs to one writer, who alone knows whether it is erased; readers come and go.
  std::atomic<int> num_wrong = 0, num_hits = 0, num_resurrected = 0;
  std::atomic<bool> stop = false;
  const auto tokens_of = [](int chunk) { return token_run(static_cast<pikv::TokenId>(1000 * (chunk + 1)), 10); };
  const auto first_bits = [&](const pikv::Chunk& chunk) {
    return test_support::read_bits(chunk.view(), 3,
                                   {.layer = 1, .side = test_support::Side::kValue, .head = 1, .dim = 5});
  };
  const auto expected_bits = [&](const pikv::ChunkKey& key) {
    return test_support::encode(pikv::DType::kBFloat16,
                                test_support::semantic_value(key, 3, {1, test_support::Side::kValue, 1, 5}));
  };
  std::vector<std::thread> threads;
  for (int reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&, reader] {
      for (int i = reader; !stop; ++i) {
        const auto tokens = tokens_of(i % kNumChunks);
        const auto key = world.keyer().key(ChunkRecipe::alone(), tokens);
        const ChunkHandle chunk = i % 3 == 0 ? store->prefetch(key, tokens).wait() : store->acquire(key, tokens).chunk;
        if (chunk == nullptr) continue;
        ++num_hits;
        if (first_bits(*chunk) != expected_bits(key)) ++num_wrong;
      }
    });
  }
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 2; ++writer) {
    writers.emplace_back([&, writer] {
      for (int i = 0; i < 150; ++i) {
        const auto tokens = tokens_of((2 * i + writer) % kNumChunks);
        const auto key = world.keyer().key(ChunkRecipe::alone(), tokens);
        static_cast<void>(capture_chunk(*store, world.backend(), world, ChunkRecipe::alone(), tokens));
        if (store->acquire(key, tokens).state == LookupState::kHit) ++num_hits;
        if (!store->erase(key).ok()) ++num_wrong;
        if (store->acquire(key, tokens).state == LookupState::kHit) ++num_resurrected;
      }
    });
  }
  for (std::thread& thread : writers) thread.join();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(num_wrong == 0);
  CHECK(num_resurrected == 0);
  CHECK(num_hits > 100);
  CHECK(store->stats().used_bytes == 0);
  CHECK(tier->stats().used_bytes == 0);
  CHECK(memory.live_bytes() == 0);
}
