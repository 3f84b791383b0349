#include "pikv/store.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <thread>

#include "support/fake_tier.hpp"
#include "support/store_world.hpp"

namespace {

using pikv::ErrorCode;
using pikv::InsertOutcome;
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
using test_support::WatchedMemory;

std::unique_ptr<pikv::Store> make_store(std::int64_t capacity_bytes, WatchedMemory* memory = nullptr,
                                        std::vector<std::shared_ptr<pikv::Tier>> tiers = {}) {
  pikv::StoreOptions options;
  options.geometry = kTinyGeometry;
  options.capacity_bytes = capacity_bytes;
  options.memory = memory;
  options.tiers = std::move(tiers);
  return std::move(pikv::Store::create(std::move(options)).value());
}

TEST_CASE("create refuses what cannot work, and says what") {
  pikv::StoreOptions options;
  options.capacity_bytes = 1000;
  CHECK(pikv::Store::create({}).status().code() == ErrorCode::kInvalidArgument);
  options.geometry = kTinyGeometry;
  options.capacity_bytes = 0;
  CHECK(pikv::Store::create(std::move(options)).status().message().find("capacity_bytes is 0") !=
        std::string_view::npos);
  pikv::StoreOptions with_null;
  with_null.geometry = kTinyGeometry;
  with_null.capacity_bytes = 1;
  with_null.tiers = {std::make_shared<FakeTier>(), nullptr};
  CHECK(pikv::Store::create(std::move(with_null)).status().message().find("tiers[1]") != std::string_view::npos);
}

TEST_CASE("a chunk is found once it is committed, and not before") {
  const auto store = make_store(10000);
  const auto tokens = tokens_of(1, 5);
  auto writer = std::move(store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens).value());
  REQUIRE(writer.outcome() == InsertOutcome::kInserted);
  CHECK(writer.existing() == nullptr);
  const pikv::KvView view = writer.view();
  CHECK(pikv::validate(pikv::as_const(view), kTinyGeometry).ok());
  CHECK(view.num_slots == 5);
  CHECK(view.v_base - view.k_base == 5 * 2 * 4);
  test_support::fill(writer, key_of(1));
  CHECK(store->lookup(key_of(1), tokens).reason == MissReason::kNotFound);
  CHECK_FALSE(store->contains(key_of(1)));
  CHECK(store->stats().used_bytes == tiny_footprint(5));

  const pikv::ChunkHandle chunk = writer.commit().value();
  CHECK(writer.commit().status().code() == ErrorCode::kInvalidArgument);
  CHECK(chunk->footprint_bytes() == tiny_footprint(5));
  CHECK(chunk->view().k_base == view.k_base);
  const pikv::Lookup found = store->lookup(key_of(1), tokens);
  CHECK(found.state == LookupState::kHit);
  CHECK(found.reason == MissReason::kNone);
  CHECK(found.chunk == chunk);
  CHECK(is_filled(*found.chunk));
  CHECK(store->contains(key_of(1)));
}

TEST_CASE("a dropped writer leaves no trace") {
  WatchedMemory memory;
  const auto store = make_store(10000, &memory);
  {
    const auto writer = store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5));
    REQUIRE(writer.ok());
    CHECK(memory.live_bytes() == 80);
    CHECK(store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5))->outcome() ==
          InsertOutcome::kInProgress);
  }
  CHECK(memory.live_bytes() == 0);
  CHECK(store->stats().used_bytes == 0);
  CHECK(insert(*store, key_of(1), tokens_of(1, 5)) != nullptr);
}

TEST_CASE("inserting the same content twice writes nothing and returns the first") {
  const auto store = make_store(10000);
  const pikv::ChunkHandle first = insert(*store, key_of(1), tokens_of(1, 5));
  InsertOutcome outcome{};
  CHECK(insert(*store, key_of(1), tokens_of(1, 5), &outcome) == first);
  CHECK(outcome == InsertOutcome::kAlreadyPresent);
  CHECK(store->stats().duplicate_inserts == 1);
  CHECK(store->stats().used_bytes == tiny_footprint(5));
}

TEST_CASE("other tokens under a key are never returned, and the entry goes") {
  const auto store = make_store(10000);
  (void)insert(*store, key_of(1), tokens_of(1, 5));
  SUBCASE("on a look-up") {
    CHECK(store->lookup(key_of(1), tokens_of(2, 5)).reason == MissReason::kTokensDiffer);
    CHECK_FALSE(store->contains(key_of(1)));
    CHECK(store->stats().used_bytes == 0);
  }
  SUBCASE("a prefix of the tokens is not the tokens") {
    CHECK(store->lookup(key_of(1), tokens_of(1, 4)).reason == MissReason::kTokensDiffer);
  }
  SUBCASE("on an insert, which replaces it") {
    InsertOutcome outcome{};
    const pikv::ChunkHandle chunk = insert(*store, key_of(1), tokens_of(2, 7), &outcome);
    CHECK(outcome == InsertOutcome::kInserted);
    CHECK(chunk->num_tokens() == 7);
    CHECK(store->stats().used_bytes == tiny_footprint(7));
  }
  CHECK(store->stats().verify_failures == 1);
}

TEST_CASE("no tokens: an error to insert, a miss to look up") {
  const auto tier = std::make_shared<FakeTier>();
  const auto store = make_store(10000, nullptr, {tier});
  CHECK(store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), {}).status().code() == ErrorCode::kInvalidArgument);
  CHECK(store->lookup(key_of(1), {}).state == LookupState::kMiss);
  CHECK(tier->num_fetches == 0);
}

TEST_CASE("capacity is kept to the byte") {
  const std::int64_t one = tiny_footprint(5);
  const auto store = make_store(2 * one);
  (void)insert(*store, key_of(1), tokens_of(1, 5));
  (void)insert(*store, key_of(2), tokens_of(2, 5));
  CHECK(store->stats().evictions == 0);
  CHECK(store->stats().used_bytes == 2 * one);
  SUBCASE("one byte more evicts the least recently used") {
    (void)store->lookup(key_of(1), tokens_of(1, 5));
    (void)insert(*store, key_of(3), tokens_of(3, 5));
    CHECK(store->contains(key_of(1)));
    CHECK_FALSE(store->contains(key_of(2)));
    CHECK(store->stats().evictions == 1);
    CHECK(store->stats().evicted_bytes == one);
    CHECK(store->stats().used_bytes == 2 * one);
  }
  SUBCASE("larger than the capacity evicts nothing") {
    InsertOutcome outcome{};
    CHECK(insert(*store, key_of(3), tokens_of(3, 60), &outcome) == nullptr);
    CHECK(outcome == InsertOutcome::kNoRoom);
    CHECK(store->stats().num_chunks == 2);
    CHECK(store->stats().declined_inserts == 1);
    CHECK(insert(*store, key_of(3), tokens_of(3, 5)) != nullptr);
  }
  SUBCASE("what is pinned makes it decline, and evicts nothing in vain") {
    const pikv::ChunkHandle pin = store->lookup(key_of(1), tokens_of(1, 5)).chunk;
    InsertOutcome outcome{};
    CHECK(insert(*store, key_of(3), tokens_of(3, 20), &outcome) == nullptr);
    CHECK(outcome == InsertOutcome::kNoRoom);
    CHECK(store->contains(key_of(2)));
    CHECK(store->stats().pinned_bytes == one);
  }
}

TEST_CASE("a capacity that holds nothing, and one beyond any memory") {
  CHECK(make_store(1)->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 1))->outcome() ==
        InsertOutcome::kNoRoom);
  CHECK(make_store(tiny_footprint(1) - 1)
            ->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 1))
            ->outcome() == InsertOutcome::kNoRoom);
  CHECK(insert(*make_store(tiny_footprint(1)), key_of(1), tokens_of(1, 1)) != nullptr);
  CHECK(insert(*make_store(std::numeric_limits<std::int64_t>::max()), key_of(1), tokens_of(1, 1)) != nullptr);
}

TEST_CASE("an erased chunk stays with its handles and is charged until the last one goes") {
  WatchedMemory memory;
  const auto store = make_store(tiny_footprint(5), &memory);
  pikv::ChunkHandle pin = insert(*store, key_of(1), tokens_of(1, 5));
  REQUIRE(store->erase(key_of(1)).ok());
  CHECK_FALSE(store->contains(key_of(1)));
  CHECK(is_filled(*pin));
  CHECK(store->stats().num_chunks == 0);
  CHECK(store->stats().used_bytes == tiny_footprint(5));
  CHECK(store->stats().pinned_bytes == tiny_footprint(5));
  InsertOutcome outcome{};
  CHECK(insert(*store, key_of(2), tokens_of(2, 1), &outcome) == nullptr);
  CHECK(outcome == InsertOutcome::kNoRoom);
  pin.reset();
  CHECK(memory.live_bytes() == 0);
  CHECK(store->stats().used_bytes == 0);
  CHECK(store->stats().pinned_bytes == 0);
  CHECK(insert(*store, key_of(2), tokens_of(2, 5)) != nullptr);
}

TEST_CASE("handles, writers and tickets outlive the store") {
  WatchedMemory memory;
  const auto tier = std::make_shared<FakeTier>();
  auto store = make_store(100000, &memory, {tier});
  pikv::ChunkHandle chunk = insert(*store, key_of(1), tokens_of(1, 5));
  (void)insert(*store, key_of(2), tokens_of(2, 5));
  const std::int64_t both = memory.live_bytes();
  auto writer = std::make_optional(
      std::move(store->begin_insert(key_of(3), pikv::ChunkRecipe::alone(), tokens_of(3, 5)).value()));
  pikv::FetchTicket ticket = store->lookup(key_of(9), tokens_of(9, 5)).ticket;
  REQUIRE(ticket.valid());
  store.reset();
  CHECK(memory.live_bytes() == both);  // key 2 went, key 3 is being written
  CHECK(is_filled(*chunk));
  MissReason reason{};
  CHECK(ticket.wait(&reason) == nullptr);
  CHECK(reason == MissReason::kNotFound);
  test_support::fill(*writer, key_of(3));
  pikv::ChunkHandle late = writer->commit().value();
  CHECK(is_filled(*late));
  CHECK_FALSE(tier->holds(key_of(3)));
  writer.reset();
  late.reset();
  chunk.reset();
  ticket = {};
  CHECK(memory.live_bytes() == 0);
}

TEST_CASE("an allocation that fails is an error, and costs no room") {
  WatchedMemory memory;
  const auto store = make_store(10000, &memory);
  memory.fail(true);
  CHECK(store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5)).status().code() ==
        ErrorCode::kOutOfMemory);
  CHECK(store->stats().used_bytes == 0);
  memory.fail(false);
  CHECK(insert(*store, key_of(1), tokens_of(1, 5)) != nullptr);
}

/// LRU whose on_insert() runs out of memory on demand.
class FailingEviction final : public pikv::EvictionPolicy {
 public:
  explicit FailingEviction(const bool& fail) : fail_(fail) {}
  void on_insert(const pikv::ChunkKey& key, std::int64_t footprint_bytes) override {
    if (fail_) throw std::bad_alloc();
    lru_->on_insert(key, footprint_bytes);
  }
  void on_access(const pikv::ChunkKey& key) override { lru_->on_access(key); }
  void on_remove(const pikv::ChunkKey& key) override { lru_->on_remove(key); }
  void visit_victims(Visitor& visitor) const override { lru_->visit_victims(visitor); }

 private:
  const bool& fail_;
  std::unique_ptr<pikv::EvictionPolicy> lru_ = pikv::make_lru_eviction();
};

TEST_CASE("bookkeeping that runs out of memory is an error or a miss, and can be tried again") {
  bool fail = false;
  const auto tier = std::make_shared<FakeTier>();
  pikv::StoreOptions options;
  options.geometry = kTinyGeometry;
  options.capacity_bytes = tiny_footprint(5);
  options.eviction = std::make_unique<FailingEviction>(fail);
  options.tiers = {tier};
  const auto store = std::move(pikv::Store::create(std::move(options)).value());
  auto writer = std::move(store->begin_insert(key_of(1), pikv::ChunkRecipe::alone(), tokens_of(1, 5)).value());
  test_support::fill(writer, key_of(1));
  fail = true;
  CHECK(writer.commit().status().code() == ErrorCode::kOutOfMemory);
  CHECK_FALSE(store->contains(key_of(1)));
  CHECK(store->stats().used_bytes == tiny_footprint(5));
  fail = false;
  CHECK(writer.commit().ok());
  (void)insert(*store, key_of(2), tokens_of(2, 5));  // evicts the first

  fail = true;
  CHECK(store->acquire(key_of(1), tokens_of(1, 5)).reason == MissReason::kNoRoom);
  CHECK(store->stats().used_bytes == 0);
  fail = false;
  CHECK(store->acquire(key_of(1), tokens_of(1, 5)).state == LookupState::kHit);
}

TEST_CASE("counters tell chunks, tokens and provenance") {
  const auto store = make_store(10000);
  (void)insert(*store, key_of(1), tokens_of(1, 5));
  {
    auto writer =
        std::move(store->begin_insert(key_of(2), pikv::ChunkRecipe::exact_context({}), tokens_of(2, 7)).value());
    REQUIRE(writer.commit().ok());
  }
  (void)store->lookup(key_of(1), tokens_of(1, 5));
  (void)store->lookup(key_of(2), tokens_of(2, 7));
  (void)store->lookup(key_of(3), tokens_of(3, 9));
  const pikv::StoreStats stats = store->stats();
  CHECK(stats.num_chunks == 2);
  CHECK(stats.lookups == 3);
  CHECK(stats.hits == 2);
  CHECK(stats.misses == 1);
  CHECK(stats.lookup_tokens == 21);
  CHECK(stats.hit_tokens == 12);
  CHECK(stats.exact_hit_tokens == 7);
  CHECK(stats.inserts == 2);
  CHECK(stats.inserted_bytes == tiny_footprint(5) + tiny_footprint(7));
  CHECK(stats.capacity_bytes == 10000);
}

TEST_CASE("names of every enumerator") {
  CHECK(std::string_view(pikv::miss_reason_name(MissReason::kTierUnavailable)) == "TierUnavailable");
  CHECK(std::string_view(pikv::insert_outcome_name(InsertOutcome::kInProgress)) == "InProgress");
}

}  // namespace
