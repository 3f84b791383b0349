// What many threads do to one store. Runs under TSan too.
#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "pikv/store.hpp"
#include "support/fake_tier.hpp"
#include "support/store_world.hpp"

namespace {

using pikv::InsertOutcome;
using pikv::LookupState;
using test_support::FakeTier;
using test_support::insert;
using test_support::is_filled;
using test_support::key_of;
using test_support::kTinyGeometry;
using test_support::tiny_footprint;
using test_support::tokens_of;

struct World {
  explicit World(std::int64_t capacity_bytes) {
    pikv::StoreOptions options;
    options.geometry = kTinyGeometry;
    options.capacity_bytes = capacity_bytes;
    options.memory = &memory;
    options.tiers = {tier};
    store = std::move(pikv::Store::create(std::move(options)).value());
  }
  test_support::WatchedMemory memory;
  std::shared_ptr<FakeTier> tier = std::make_shared<FakeTier>();
  std::unique_ptr<pikv::Store> store;
};

template <class Body>
void on_threads(int num_threads, Body body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("64 threads that want one chunk cause one fetch") {
  World world(tiny_footprint(5));
  (void)insert(*world.store, key_of(1), tokens_of(1, 5));
  (void)insert(*world.store, key_of(2), tokens_of(2, 5));  // evicts the first
  world.tier->wait_gate.close();
  std::atomic<int> num_asked = 0;
  std::atomic<int> num_hits = 0;
  std::thread opener([&] {
    while (num_asked < 64) std::this_thread::yield();
    world.tier->wait_gate.open();
  });
  on_threads(64, [&](int) {
    const pikv::Lookup lookup = world.store->lookup(key_of(1), tokens_of(1, 5));
    ++num_asked;
    const pikv::ChunkHandle chunk = lookup.ticket.wait();
    if (chunk != nullptr && is_filled(*chunk)) ++num_hits;
  });
  opener.join();
  CHECK(num_hits == 64);
  CHECK(world.tier->num_fetches == 1);
  CHECK(world.tier->num_waits == 1);
  const pikv::StoreStats stats = world.store->stats();
  CHECK(stats.fetches == 1);
  CHECK(stats.shared_fetches == 63);
  CHECK(stats.hits == 64);
  CHECK(stats.num_chunks == 1);
}

TEST_CASE("of many who insert one chunk, one does") {
  World world(100000);
  std::atomic<int> num_inserted = 0;
  on_threads(16, [&](int) {
    InsertOutcome outcome{};
    const pikv::ChunkHandle chunk = insert(*world.store, key_of(1), tokens_of(1, 50), &outcome);
    if (outcome == InsertOutcome::kInserted) ++num_inserted;
    if (chunk != nullptr) CHECK(is_filled(*chunk));
  });
  CHECK(num_inserted == 1);
  CHECK(world.store->stats().used_bytes == tiny_footprint(50));
  CHECK(world.store->stats().duplicate_inserts == 15);
}

TEST_CASE("an erase is not undone by inserts that began before it") {
  World world(100000);
  world.tier->delay_us = 50;
  for (std::uint64_t round = 0; round < 80; ++round) {
    const pikv::ChunkKey key = key_of(round);
    const auto tokens = tokens_of(round, 5);
    auto writer = std::move(world.store->begin_insert(key, pikv::ChunkRecipe::alone(), tokens).value());
    REQUIRE(writer.outcome() == InsertOutcome::kInserted);
    test_support::fill(writer, key);
    on_threads(3, [&](int thread) {
      if (thread == 0) CHECK(world.store->erase(key).ok());
      if (thread == 1) CHECK(is_filled(*writer.commit().value()));
      if (thread == 2) (void)world.store->acquire(key, tokens);
    });
    CHECK_FALSE(world.store->contains(key));
    CHECK_FALSE(world.tier->holds(key));
    CHECK(world.store->stats().used_bytes == 0);
  }
}

TEST_CASE("fetches cannot resurrect an erased chunk") {
  World world(100000);
  world.tier->delay_us = 30;
  for (std::uint64_t round = 0; round < 80; ++round) {
    const pikv::ChunkKey key = key_of(round);
    const auto tokens = tokens_of(round, 5);
    (void)insert(*world.store, key, tokens);
    std::atomic<bool> stop = false;
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
      readers.emplace_back([&] {
        while (!stop) (void)world.store->acquire(key, tokens);
      });
    }
    CHECK(world.store->erase(key).ok());
    for (int i = 0; i < 5; ++i) {
      CHECK_FALSE(world.store->contains(key));
      CHECK(world.store->acquire(key, tokens).state == LookupState::kMiss);
    }
    CHECK_FALSE(world.tier->holds(key));
    stop = true;
    for (std::thread& reader : readers) reader.join();
  }
}

TEST_CASE("mixed operations keep the capacity, the content and the books") {
  constexpr std::int64_t kCapacity = 6000;
  World world(kCapacity);
  std::atomic<int> num_bad = 0;
  on_threads(8, [&](int thread) {
    std::mt19937 random(static_cast<std::uint32_t>(thread));
    std::vector<pikv::ChunkHandle> pins;
    std::vector<pikv::FetchTicket> tickets;
    for (int step = 0; step < 1500; ++step) {
      const std::uint64_t number = random() % 16;
      const pikv::ChunkKey key = key_of(number);
      const auto tokens = tokens_of(number, 1 + number * 3);
      switch (random() % 8) {
        case 0:
        case 1: {
          const pikv::ChunkHandle chunk = insert(*world.store, key, tokens);
          if (chunk != nullptr && !is_filled(*chunk)) ++num_bad;
          break;
        }
        case 2:
          (void)world.store->begin_insert(key, pikv::ChunkRecipe::alone(), tokens);
          break;
        case 3: {
          const pikv::Lookup lookup = world.store->lookup(key, tokens);
          if (lookup.state == LookupState::kPending) tickets.push_back(lookup.ticket);
          if (tickets.size() > 4) tickets.clear();
          break;
        }
        case 4: {
          if (!world.store->erase(key).ok()) ++num_bad;
          break;
        }
        case 5: {
          const pikv::StoreStats stats = world.store->stats();
          if (stats.used_bytes > kCapacity || stats.used_bytes < 0) ++num_bad;
          break;
        }
        default: {
          pikv::Lookup found = world.store->acquire(key, tokens);
          if (found.chunk == nullptr) break;
          if (!is_filled(*found.chunk) || found.chunk->tokens().front() != tokens.front()) ++num_bad;
          pins.push_back(std::move(found.chunk));
          if (pins.size() > 2) pins.erase(pins.begin());
        }
      }
    }
  });
  CHECK(num_bad == 0);
  const pikv::StoreStats stats = world.store->stats();
  CHECK(stats.lookups == stats.hits + stats.misses);
  CHECK(stats.pinned_bytes == 0);
  CHECK(stats.used_bytes <= kCapacity);
  CHECK(world.tier->num_live_fetches == 0);
  for (std::uint64_t number = 0; number < 16; ++number) CHECK(world.store->erase(key_of(number)).ok());
  CHECK(world.store->stats().used_bytes == 0);
  CHECK(world.memory.live_bytes() == 0);
}

TEST_CASE("inserts that fit only by turns all get their turn") {
  World world(tiny_footprint(20));
  std::atomic<int> num_declined = 0;
  on_threads(4, [&](int thread) {
    for (std::uint64_t i = 0; i < 300; ++i) {
      const std::uint64_t number = static_cast<std::uint64_t>(thread) * 1000 + i;
      InsertOutcome outcome{};
      (void)insert(*world.store, key_of(number), tokens_of(number, 20), &outcome);
      if (outcome == InsertOutcome::kNoRoom) ++num_declined;
    }
  });
  // Being declined is right only while another thread holds the only room by writing into it.
  const pikv::StoreStats stats = world.store->stats();
  CHECK(stats.inserts + num_declined == 1200);
  CHECK(stats.declined_inserts == num_declined);
  CHECK(stats.used_bytes <= tiny_footprint(20));
}

}  // namespace
