#include <doctest/doctest.h>

#include <memory>
#include <thread>

#include "pikv/store.hpp"
#include "support/fake_tier.hpp"
#include "support/store_world.hpp"

namespace {

using pikv::ErrorCode;
using pikv::LookupState;
using pikv::MissReason;
using test_support::FakeTier;
using test_support::Fault;
using test_support::insert;
using test_support::is_filled;
using test_support::key_of;
using test_support::kTinyGeometry;
using test_support::tiny_footprint;
using test_support::tokens_of;

/// A store over two tiers.
struct World {
  explicit World(std::int64_t capacity_bytes = 100000) {
    pikv::StoreOptions options;
    options.geometry = kTinyGeometry;
    options.capacity_bytes = capacity_bytes;
    options.memory = &memory;
    options.tiers = {fast, slow};
    store = std::move(pikv::Store::create(std::move(options)).value());
  }

  /// Puts a chunk into `tier` alone.
  void seed(FakeTier& tier, std::uint64_t number, std::size_t num_tokens) {
    pikv::StoreOptions options;
    options.geometry = kTinyGeometry;
    options.capacity_bytes = 1 << 20;
    const auto other = std::move(pikv::Store::create(std::move(options)).value());
    REQUIRE(tier.put(insert(*other, key_of(number), tokens_of(number, num_tokens))).ok());
  }

  test_support::WatchedMemory memory;
  std::shared_ptr<FakeTier> fast = std::make_shared<FakeTier>();
  std::shared_ptr<FakeTier> slow = std::make_shared<FakeTier>();
  std::unique_ptr<pikv::Store> store;
};

TEST_CASE("a committed chunk is written to the fastest tier that takes it") {
  World world;
  SUBCASE("the first") {
    (void)insert(*world.store, key_of(1), tokens_of(1, 5));
    CHECK(world.fast->holds(key_of(1)));
    CHECK_FALSE(world.slow->holds(key_of(1)));
  }
  SUBCASE("the next when the first is full, which is no failure") {
    world.fast->put_answer = ErrorCode::kQuotaExceeded;
    (void)insert(*world.store, key_of(1), tokens_of(1, 5));
    CHECK(world.slow->holds(key_of(1)));
    CHECK(world.store->stats().tier_failures == 0);
  }
  SUBCASE("none when all fail, and the chunk is in memory all the same") {
    world.fast->put_answer = ErrorCode::kIoError;
    world.slow->put_answer = ErrorCode::kUnavailable;
    CHECK(insert(*world.store, key_of(1), tokens_of(1, 5)) != nullptr);
    CHECK(world.store->contains(key_of(1)));
    CHECK(world.store->stats().tier_failures == 2);
  }
}

TEST_CASE("leaving memory costs no write, and the chunk comes back from its tier") {
  World world(tiny_footprint(5));
  (void)insert(*world.store, key_of(1), tokens_of(1, 5));
  (void)insert(*world.store, key_of(2), tokens_of(2, 5));
  CHECK_FALSE(world.store->contains(key_of(1)));
  CHECK(world.fast->num_puts == 2);
  const pikv::Lookup found = world.store->acquire(key_of(1), tokens_of(1, 5));
  CHECK(found.state == LookupState::kHit);
  CHECK(is_filled(*found.chunk));
  CHECK(world.store->contains(key_of(1)));
  CHECK_FALSE(world.store->contains(key_of(2)));
  CHECK(world.fast->num_puts == 2);
  CHECK(world.store->stats().fetched_bytes == tiny_footprint(5));
  CHECK(world.store->stats().used_bytes == tiny_footprint(5));
}

TEST_CASE("a look-up begins with the first tier and does not wait") {
  World world;
  world.seed(*world.slow, 1, 5);
  const pikv::Lookup lookup = world.store->lookup(key_of(1), tokens_of(1, 5));
  REQUIRE(lookup.state == LookupState::kPending);
  CHECK(world.fast->num_fetches == 1);
  CHECK(world.fast->num_waits == 0);
  CHECK(world.slow->num_fetches == 0);
  MissReason reason{};
  const pikv::ChunkHandle chunk = lookup.ticket.wait(&reason);
  REQUIRE(chunk != nullptr);
  CHECK(reason == MissReason::kNone);
  CHECK(is_filled(*chunk));
  CHECK(lookup.ticket.wait() == chunk);
  CHECK(world.slow->num_fetches == 1);
  CHECK(world.store->contains(key_of(1)));
  CHECK(world.store->stats().hits == 1);
  CHECK(world.store->stats().hit_tokens == 5);
}

TEST_CASE("a miss everywhere") {
  World world;
  const pikv::Lookup found = world.store->acquire(key_of(1), tokens_of(1, 5));
  CHECK(found.state == LookupState::kMiss);
  CHECK(found.reason == MissReason::kNotFound);
  CHECK(world.fast->num_fetches == 1);
  CHECK(world.slow->num_fetches == 1);
  CHECK(world.store->stats().misses == 1);
  CHECK(world.store->stats().used_bytes == 0);
}

TEST_CASE("whatever a tier does wrong is a miss with a reason, and the next tier may still answer") {
  struct Case {
    Fault fault;
    MissReason reason;
    int verify_failures;
    int tier_failures;
    bool erased;
  };
  const Case cases[] = {
      {Fault::kUnavailable, MissReason::kTierUnavailable, 0, 1, false},
      {Fault::kIoError, MissReason::kTierUnavailable, 0, 1, false},
      {Fault::kNoFetch, MissReason::kTierUnavailable, 0, 1, false},
      {Fault::kCorruption, MissReason::kVerifyFailed, 1, 0, false},
      {Fault::kVanishes, MissReason::kNotFound, 0, 0, false},
      {Fault::kWrongTokens, MissReason::kTokensDiffer, 1, 0, true},
      {Fault::kWrongKey, MissReason::kVerifyFailed, 1, 0, true},
      {Fault::kWrongGeometry, MissReason::kVerifyFailed, 1, 0, true},
      {Fault::kWrongSize, MissReason::kVerifyFailed, 1, 0, true},
  };
  for (const Case& c : cases) {
    CAPTURE(static_cast<int>(c.fault));
    for (const bool second_has_it : {false, true}) {
      World world;
      world.seed(*world.fast, 1, 5);
      if (second_has_it) world.seed(*world.slow, 1, 5);
      world.fast->fault = c.fault;
      const pikv::Lookup found = world.store->acquire(key_of(1), tokens_of(1, 5));
      if (second_has_it) {
        REQUIRE(found.state == LookupState::kHit);
        CHECK(is_filled(*found.chunk));
      } else {
        CHECK(found.state == LookupState::kMiss);
        CHECK(found.reason == c.reason);
        CHECK(world.memory.live_bytes() == 0);
        CHECK(world.store->stats().used_bytes == 0);
      }
      CHECK(world.store->stats().verify_failures == c.verify_failures);
      CHECK(world.store->stats().tier_failures == c.tier_failures);
      CHECK(world.fast->holds(key_of(1)) != c.erased);
    }
  }
}

TEST_CASE("a tier that throws is survived") {
  World world;
  world.seed(*world.fast, 1, 5);
  world.fast->fault = Fault::kThrows;
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).reason == MissReason::kNoRoom);
  world.fast->fault = Fault::kNone;
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).state == LookupState::kHit);
}

TEST_CASE("a fetch makes room, and is a miss when there is none") {
  World world(tiny_footprint(5) + tiny_footprint(5) / 2);
  world.seed(*world.fast, 1, 5);
  pikv::ChunkHandle pin = insert(*world.store, key_of(2), tokens_of(2, 5));
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).reason == MissReason::kNoRoom);
  CHECK(world.store->stats().used_bytes == tiny_footprint(5));
  CHECK(world.slow->num_fetches == 0);
  pin.reset();
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).state == LookupState::kHit);
  CHECK(world.store->stats().evictions == 1);
  CHECK(world.store->stats().used_bytes == tiny_footprint(5));
}

TEST_CASE("memory that fails during a fetch is a miss") {
  World world;
  world.seed(*world.fast, 1, 5);
  world.memory.fail(true);
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).reason == MissReason::kNoRoom);
  CHECK(world.store->stats().used_bytes == 0);
}

TEST_CASE("a slab from foreign memory is charged in full") {
  World world;
  world.seed(*world.fast, 1, 5);
  world.fast->fault = Fault::kForeignMemory;
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).state == LookupState::kHit);
  CHECK(world.store->stats().used_bytes == tiny_footprint(5));
}

TEST_CASE("joining a fetch with other tokens is refused and harms nobody") {
  World world;
  world.seed(*world.fast, 1, 5);
  const pikv::Lookup right = world.store->lookup(key_of(1), tokens_of(1, 5));
  CHECK(world.store->lookup(key_of(1), tokens_of(2, 5)).reason == MissReason::kTokensDiffer);
  CHECK(right.ticket.wait() != nullptr);
  CHECK(world.fast->num_fetches == 1);
}

TEST_CASE("a fetch that nobody waits for is abandoned with its last ticket") {
  World world;
  world.seed(*world.fast, 1, 5);
  {
    const pikv::Lookup first = world.store->lookup(key_of(1), tokens_of(1, 5));
    const pikv::Lookup second = world.store->lookup(key_of(1), tokens_of(1, 5));
    CHECK(world.store->stats().shared_fetches == 1);
    CHECK(world.fast->num_live_fetches == 1);
  }
  CHECK(world.fast->num_live_fetches == 0);
  CHECK(world.store->stats().misses == 2);
  CHECK(world.store->stats().used_bytes == 0);
  CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).state == LookupState::kHit);
  CHECK(world.fast->num_fetches == 2);
}

TEST_CASE("erase reaches every tier, and says which error it met") {
  World world;
  (void)insert(*world.store, key_of(1), tokens_of(1, 5));
  world.seed(*world.slow, 1, 5);
  SUBCASE("all well") {
    CHECK(world.store->erase(key_of(1)).ok());
    CHECK_FALSE(world.fast->holds(key_of(1)));
    CHECK_FALSE(world.slow->holds(key_of(1)));
    CHECK(world.store->acquire(key_of(1), tokens_of(1, 5)).reason == MissReason::kNotFound);
  }
  SUBCASE("one fails, the others are asked all the same") {
    world.fast->erase_answer = ErrorCode::kIoError;
    CHECK(world.store->erase(key_of(1)).code() == ErrorCode::kIoError);
    CHECK_FALSE(world.store->contains(key_of(1)));
    CHECK_FALSE(world.slow->holds(key_of(1)));
    CHECK(world.store->stats().tier_failures == 1);
  }
  SUBCASE("what was never there is erased gladly") { CHECK(world.store->erase(key_of(77)).ok()); }
}

TEST_CASE("an erase is not undone by a fetch that has read the chunk already") {
  World world;
  world.seed(*world.fast, 1, 5);
  world.fast->read_gate.close();
  const pikv::Lookup lookup = world.store->lookup(key_of(1), tokens_of(1, 5));
  MissReason reason{};
  pikv::ChunkHandle chunk;
  std::thread waiter([&] { chunk = lookup.ticket.wait(&reason); });
  world.fast->read_gate.await_arrivals(1);
  CHECK(world.store->erase(key_of(1)).ok());
  world.fast->read_gate.open();
  waiter.join();
  CHECK(chunk == nullptr);
  CHECK(reason == MissReason::kNotFound);
  CHECK_FALSE(world.store->contains(key_of(1)));
  CHECK(world.memory.live_bytes() == 0);
  CHECK(world.store->stats().misses == 1);
}

TEST_CASE("an erase is not undone by what begins while it is under way") {
  World world;
  world.seed(*world.fast, 1, 5);
  world.fast->erase_gate.close();
  world.fast->read_gate.close();
  std::thread eraser([&] { CHECK(world.store->erase(key_of(1)).ok()); });
  world.fast->erase_gate.await_arrivals(1);

  auto writer = std::move(world.store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5)).value());
  REQUIRE(writer.outcome() == pikv::InsertOutcome::kInserted);
  test_support::fill(writer, key_of(1));
  bool published = false;
  SUBCASE("an insert that ends before the erase") {
    CHECK(writer.commit().ok());
    CHECK(world.fast->num_puts == 1);  // the seed's
    published = true;
  }
  SUBCASE("an insert that ends behind it") {}
  const pikv::Lookup lookup = world.store->lookup(key_of(1), tokens_of(1, 5));
  CHECK((lookup.state == LookupState::kHit) == published);
  pikv::ChunkHandle fetched;
  std::thread waiter([&] { fetched = lookup.ticket.wait(); });
  if (!published) world.fast->read_gate.await_arrivals(1);  // the chunk has been read

  world.fast->erase_gate.open();
  eraser.join();
  world.fast->read_gate.open();
  waiter.join();
  if (!published) CHECK(writer.commit().ok());
  CHECK(fetched == nullptr);
  CHECK_FALSE(world.store->contains(key_of(1)));
  CHECK_FALSE(world.fast->holds(key_of(1)));
}

TEST_CASE("an erase is not undone by an insert under way") {
  World world;
  auto writer = std::move(world.store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5)).value());
  CHECK(world.store->erase(key_of(1)).ok());
  test_support::fill(writer, key_of(1));
  pikv::ChunkHandle chunk = writer.commit().value();
  CHECK(is_filled(*chunk));
  CHECK_FALSE(world.store->contains(key_of(1)));
  CHECK_FALSE(world.fast->holds(key_of(1)));
  CHECK(world.store->stats().inserts == 0);
  CHECK(world.store->stats().pinned_bytes == tiny_footprint(5));
  chunk.reset();
  CHECK(world.store->stats().used_bytes == 0);
}

TEST_CASE("an erase waits for a write to a tier and then takes it back") {
  World world;
  world.fast->put_gate.close();
  std::thread inserter([&] { (void)insert(*world.store, key_of(1), tokens_of(1, 5)); });
  world.fast->put_gate.await_arrivals(1);
  CHECK(world.store->contains(key_of(1)));
  std::atomic<bool> erased = false;
  std::thread eraser([&] {
    CHECK(world.store->erase(key_of(1)).ok());
    erased = true;
  });
  while (world.store->contains(key_of(1))) std::this_thread::yield();
  CHECK_FALSE(erased);
  CHECK(world.fast->num_erases == 0);
  world.fast->put_gate.open();
  inserter.join();
  eraser.join();
  CHECK_FALSE(world.fast->holds(key_of(1)));
}

TEST_CASE("a chunk inserted while it is fetched stays one chunk") {
  World world;
  world.seed(*world.fast, 1, 5);
  const pikv::Lookup lookup = world.store->lookup(key_of(1), tokens_of(1, 5));
  REQUIRE(lookup.state == LookupState::kPending);
  SUBCASE("the insert comes first") {
    const pikv::ChunkHandle inserted = insert(*world.store, key_of(1), tokens_of(1, 5));
    CHECK(lookup.ticket.wait() == inserted);
  }
  SUBCASE("the fetch comes first") {
    auto writer = std::move(world.store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5)).value());
    REQUIRE(writer.outcome() == pikv::InsertOutcome::kInserted);
    const pikv::ChunkHandle fetched = lookup.ticket.wait();
    CHECK(writer.commit().value() == fetched);
    CHECK(world.store->stats().duplicate_inserts == 1);
  }
  CHECK(world.store->stats().num_chunks == 1);
  CHECK(world.store->stats().used_bytes == tiny_footprint(5));
}

TEST_CASE("the store may go while a fetch is under way on another thread") {
  World world;
  world.seed(*world.fast, 1, 5);
  world.fast->read_gate.close();
  pikv::FetchTicket ticket = world.store->lookup(key_of(1), tokens_of(1, 5)).ticket;
  pikv::ChunkHandle chunk;
  std::thread waiter([&] { chunk = ticket.wait(); });
  world.fast->read_gate.await_arrivals(1);
  world.store.reset();
  world.fast->read_gate.open();
  waiter.join();
  CHECK(chunk == nullptr);
  ticket = {};
  CHECK(world.memory.live_bytes() == 0);
}

}  // namespace
