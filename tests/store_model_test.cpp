// Random operations on a store with a tier, against a model of maps and lists that says to the byte what must be there.
#include <doctest/doctest.h>

#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "pikv/store.hpp"
#include "support/fake_tier.hpp"
#include "support/store_world.hpp"

namespace {

using pikv::InsertOutcome;
using pikv::LookupState;
using pikv::MissReason;
using test_support::FakeTier;
using test_support::key_of;
using test_support::kTinyGeometry;
using test_support::tiny_footprint;
using test_support::tokens_of;

constexpr std::uint64_t kNumKeys = 12;

std::size_t num_tokens_of(std::uint64_t number) { return 1 + number * number % 40; }
std::int64_t footprint_of(std::uint64_t number) {
  return tiny_footprint(static_cast<std::int64_t>(num_tokens_of(number)));
}
std::vector<pikv::TokenId> content_of(std::uint64_t number) { return tokens_of(number, num_tokens_of(number)); }

class Model {
 public:
  explicit Model(std::int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  bool findable(std::uint64_t number) const { return std::find(order_.begin(), order_.end(), number) != order_.end(); }
  void touch(std::uint64_t number) {
    order_.remove(number);
    order_.push_back(number);
  }
  void remove(std::uint64_t number) { order_.remove(number); }

  /// Evicts the least recent that nobody pins, all or nothing.
  bool make_room(std::int64_t bytes) {
    if (bytes > capacity_bytes_) return false;
    std::int64_t missing = used_bytes() + bytes - capacity_bytes_;
    std::vector<std::uint64_t> victims;
    for (const std::uint64_t number : order_) {
      if (missing <= 0) break;
      if (pins_of(number) != 0) continue;
      victims.push_back(number);
      missing -= footprint_of(number);
    }
    if (missing > 0) return false;
    for (const std::uint64_t number : victims) order_.remove(number);
    num_evictions += static_cast<std::int64_t>(victims.size());
    return true;
  }

  // A pin is on one generation of a chunk: an erased chunk's pins do not pin the one inserted later.
  struct Pin {
    pikv::ChunkHandle handle;
    std::uint64_t number;
  };
  std::vector<Pin> pins;
  std::map<std::uint64_t, std::pair<pikv::ChunkWriter, bool>> writers;  // true: fenced off by an erase
  std::int64_t num_evictions = 0;

  int pins_of(std::uint64_t number) const {
    return static_cast<int>(
        std::count_if(pins.begin(), pins.end(), [&](const Pin& pin) { return pin.handle == current(number); }));
  }
  const pikv::ChunkHandle& current(std::uint64_t number) const {
    static const pikv::ChunkHandle kNone;
    const auto handle = pinned_now_.find(number);
    return handle == pinned_now_.end() ? kNone : handle->second;
  }
  void add_pin(std::uint64_t number, pikv::ChunkHandle handle) {
    pins.push_back({handle, number});
    pinned_now_[number] = std::move(handle);
    tidy();
  }
  void drop_pin(std::size_t index) {
    pins.erase(pins.begin() + static_cast<std::ptrdiff_t>(index));
    tidy();
  }
  /// Takes the model's own handles off chunks that it has no pin on, or that are not findable.
  void tidy() {
    for (auto entry = pinned_now_.begin(); entry != pinned_now_.end();) {
      const bool pinned =
          std::any_of(pins.begin(), pins.end(), [&](const Pin& pin) { return pin.handle == entry->second; });
      entry = pinned && findable(entry->first) ? std::next(entry) : pinned_now_.erase(entry);
    }
  }

  std::int64_t findable_bytes() const {
    std::int64_t bytes = 0;
    for (const std::uint64_t number : order_) bytes += footprint_of(number);
    return bytes;
  }
  std::int64_t writing_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& [number, writer] : writers) bytes += footprint_of(number);
    return bytes;
  }
  std::int64_t leftover_bytes() const {
    std::map<const pikv::Chunk*, std::int64_t> leftovers;
    for (const Pin& pin : pins) {
      if (pin.handle != current(pin.number)) leftovers[pin.handle.get()] = footprint_of(pin.number);
    }
    std::int64_t bytes = 0;
    for (const auto& [chunk, footprint] : leftovers) bytes += footprint;
    return bytes;
  }
  std::int64_t used_bytes() const { return findable_bytes() + writing_bytes() + leftover_bytes(); }
  std::int64_t pinned_bytes() const {
    std::int64_t bytes = leftover_bytes();
    for (const std::uint64_t number : order_) {
      if (pins_of(number) != 0) bytes += footprint_of(number);
    }
    return bytes;
  }
  std::int64_t num_chunks() const { return static_cast<std::int64_t>(order_.size()); }

 private:
  std::int64_t capacity_bytes_;
  std::list<std::uint64_t> order_;                         // findable, least recent first
  std::map<std::uint64_t, pikv::ChunkHandle> pinned_now_;  // the findable chunk of a number, if it is pinned
};

void run(std::uint32_t seed, bool with_tier) {
  CAPTURE(seed);
  CAPTURE(with_tier);
  constexpr std::int64_t kCapacity = 4000;
  test_support::WatchedMemory memory;
  const auto tier = std::make_shared<FakeTier>();
  pikv::StoreOptions options;
  options.geometry = kTinyGeometry;
  options.capacity_bytes = kCapacity;
  options.memory = &memory;
  if (with_tier) options.tiers = {tier};
  auto store = std::move(pikv::Store::create(std::move(options)).value());
  Model model(kCapacity);
  std::mt19937 random(seed);

  for (int step = 0; step < 3000; ++step) {
    const std::uint64_t number = random() % kNumKeys;
    const pikv::ChunkKey key = key_of(number);
    const std::vector<pikv::TokenId> tokens = content_of(number);
    CAPTURE(step);
    CAPTURE(number);
    const unsigned action = random() % 16;
    CAPTURE(action);
    if (action < 5) {  // begin an insert
      auto writer = std::move(store->begin_insert(key, pikv::ChunkRecipe::alone(), tokens).value());
      const auto known = model.writers.find(number);
      if (model.findable(number)) {
        REQUIRE(writer.outcome() == InsertOutcome::kAlreadyPresent);
        model.touch(number);
      } else if (known != model.writers.end() && !known->second.second) {
        REQUIRE(writer.outcome() == InsertOutcome::kInProgress);
      } else if (known != model.writers.end()) {
        // A second writer beside a fenced one: legal, but the model keeps one for each number.
        const bool room = model.make_room(footprint_of(number));
        REQUIRE((writer.outcome() == InsertOutcome::kInserted) == room);
      } else if (model.make_room(footprint_of(number))) {
        REQUIRE(writer.outcome() == InsertOutcome::kInserted);
        test_support::fill(writer, key);
        model.writers.emplace(number, std::make_pair(std::move(writer), false));
      } else {
        REQUIRE(writer.outcome() == InsertOutcome::kNoRoom);
      }
    } else if (action < 9 && !model.writers.empty()) {  // finish one
      const auto chosen =
          std::next(model.writers.begin(), static_cast<std::ptrdiff_t>(random() % model.writers.size()));
      const std::uint64_t written = chosen->first;
      const bool fenced = chosen->second.second;
      if (random() % 4 != 0) {
        pikv::ChunkHandle chunk = chosen->second.first.commit().value();
        REQUIRE(test_support::is_filled(*chunk));
        model.writers.erase(chosen);
        if (!fenced && !model.findable(written)) model.touch(written);
        if (random() % 2 == 0) {
          model.pins.push_back({chunk, written});
          if (!fenced) {
            model.drop_pin(model.pins.size() - 1);
            model.add_pin(written, chunk);
          }
        }
      } else {
        model.writers.erase(chosen);
      }
    } else if (action < 13) {  // look up
      const bool in_memory = model.findable(number);
      const bool in_tier = with_tier && tier->holds(key);
      pikv::Lookup found = store->acquire(key, tokens);
      if (in_memory) {
        REQUIRE(found.state == LookupState::kHit);
        model.touch(number);
      } else if (in_tier && model.make_room(footprint_of(number))) {
        REQUIRE(found.state == LookupState::kHit);
        model.touch(number);
      } else {
        REQUIRE(found.state == LookupState::kMiss);
        REQUIRE(found.reason == (in_tier ? MissReason::kNoRoom : MissReason::kNotFound));
      }
      if (found.chunk != nullptr) {
        REQUIRE(test_support::is_filled(*found.chunk));
        REQUIRE(std::equal(tokens.begin(), tokens.end(), found.chunk->tokens().begin(), found.chunk->tokens().end()));
        if (random() % 2 == 0) model.add_pin(number, std::move(found.chunk));
      }
    } else if (action < 15) {  // let go of a pin
      if (!model.pins.empty()) model.drop_pin(random() % model.pins.size());
    } else {
      REQUIRE(store->erase(key).ok());
      REQUIRE_FALSE(tier->holds(key));
      model.remove(number);
      if (const auto writer = model.writers.find(number); writer != model.writers.end()) writer->second.second = true;
      model.tidy();
    }

    const pikv::StoreStats stats = store->stats();
    REQUIRE(stats.num_chunks == model.num_chunks());
    REQUIRE(stats.used_bytes == model.used_bytes());
    REQUIRE(stats.pinned_bytes == model.pinned_bytes());
    REQUIRE(stats.used_bytes <= kCapacity);
    REQUIRE(stats.lookups == stats.hits + stats.misses);
    REQUIRE(stats.evictions == model.num_evictions);
    for (std::uint64_t other = 0; other < kNumKeys; ++other) {
      REQUIRE(store->contains(key_of(other)) == model.findable(other));
    }
  }
  CHECK(model.num_evictions > 50);

  store.reset();
  model.writers.clear();
  model.pins.clear();
  model.tidy();
  CHECK(memory.live_bytes() == 0);
}

TEST_CASE("random operations agree with the model") {
  for (std::uint32_t seed = 1; seed <= 12; ++seed) run(seed, seed % 2 == 0);
}

}  // namespace
