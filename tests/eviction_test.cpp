#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "pikv/tier.hpp"
#include "support/store_world.hpp"

namespace {

using test_support::key_of;

class Collect final : public pikv::EvictionPolicy::Visitor {
 public:
  explicit Collect(std::size_t limit) : limit_(limit) {}
  bool visit(const pikv::ChunkKey& key) override {
    keys.push_back(key);
    return keys.size() < limit_;
  }
  std::vector<pikv::ChunkKey> keys;

 private:
  std::size_t limit_;
};

std::vector<pikv::ChunkKey> victims(const pikv::EvictionPolicy& policy, std::size_t limit = 1000) {
  Collect collect(limit);
  policy.visit_victims(collect);
  return collect.keys;
}

TEST_CASE("LRU shows the least recently used first and stops when told") {
  const auto lru = pikv::make_lru_eviction();
  CHECK(victims(*lru).empty());
  for (std::uint64_t i = 0; i < 4; ++i) lru->on_insert(key_of(i), 1);
  lru->on_access(key_of(0));
  CHECK(victims(*lru) == std::vector{key_of(1), key_of(2), key_of(3), key_of(0)});
  CHECK(victims(*lru, 2) == std::vector{key_of(1), key_of(2)});
  lru->on_remove(key_of(2));
  CHECK(victims(*lru) == std::vector{key_of(1), key_of(3), key_of(0)});
}

TEST_CASE("LRU passes over keys it does not know") {
  const auto lru = pikv::make_lru_eviction();
  lru->on_insert(key_of(1), 1);
  lru->on_access(key_of(2));
  lru->on_remove(key_of(2));
  CHECK(victims(*lru) == std::vector{key_of(1)});
}

TEST_CASE("LRU agrees with a list over random operations") {
  const auto lru = pikv::make_lru_eviction();
  std::vector<pikv::ChunkKey> order;  // least recent first
  std::mt19937 random(7);
  for (int step = 0; step < 5000; ++step) {
    const pikv::ChunkKey key = key_of(random() % 20);
    const auto place = std::find(order.begin(), order.end(), key);
    if (place == order.end()) {
      lru->on_insert(key, 1);
      order.push_back(key);
    } else if (random() % 3 == 0) {
      lru->on_remove(key);
      order.erase(place);
    } else {
      lru->on_access(key);
      order.erase(place);
      order.push_back(key);
    }
    REQUIRE(victims(*lru) == order);
  }
}

}  // namespace
