#include <doctest/doctest.h>

#include <limits>
#include <set>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/paged_cache.hpp"
#include "support/engine_runs.hpp"

namespace {

using mini_engine::Error;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Precision;
using mini_engine::Sequence;

TEST_CASE("every element of every slot has its own address inside the cache") {
  const ModelConfig config = test_support::small_config();
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    const PagedCache cache(config, precision, 3, 5);
    const PagedCache::Strides& s = cache.strides();
    std::set<std::int64_t> seen;
    for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (std::int64_t slot = 0; slot < cache.num_slots(); ++slot) {
        for (std::int64_t head = 0; head < config.num_kv_heads; ++head) {
          for (std::int64_t dim = 0; dim < config.head_dim; ++dim) {
            const std::int64_t key = layer * s.layer + slot / 5 * s.page + slot % 5 * s.token + head * s.head + dim;
            seen.insert(key);
            seen.insert(key + s.value_offset);
          }
        }
      }
    }
    const std::int64_t num_elements = std::int64_t{2} * 3 * 15 * 2 * 16;
    CHECK(static_cast<std::int64_t>(seen.size()) == num_elements);
    CHECK(*seen.begin() == 0);
    CHECK(*seen.rbegin() == num_elements - 1);
    CHECK(cache.size_bytes() == static_cast<std::size_t>(num_elements) * (precision == Precision::kFloat32 ? 4 : 2));
  }
}

TEST_CASE("sequences take pages as they grow and give them back") {
  PagedCache cache(test_support::small_config(), Precision::kFloat32, 6, 4);
  {
    Sequence a(cache), b(cache);
    a.grow(4);
    CHECK(cache.num_free_pages() == 5);
    b.grow(1);
    a.grow(1);
    a.grow(0);
    CHECK(cache.num_free_pages() == 3);
    b.grow(8);
    CHECK(b.size() == 9);
    CHECK(cache.num_free_pages() == 1);
    std::set<mini_engine::Slot> slots(a.slots().begin(), a.slots().end());
    slots.insert(b.slots().begin(), b.slots().end());
    CHECK(slots.size() == 14);
    CHECK(*slots.rbegin() < cache.num_slots());

    // Too much at once takes nothing.
    CHECK_THROWS_WITH_AS(a.grow(8), "the KV cache has 1 of 6 pages free, 2 are needed", Error);
    CHECK(a.size() == 5);
    CHECK(a.pages().size() == 2);
    CHECK(cache.num_free_pages() == 1);

    const std::vector<mini_engine::Slot> before(b.slots().begin(), b.slots().begin() + 4);
    b.truncate(4);
    CHECK(cache.num_free_pages() == 3);
    CHECK(b.slots() == before);
    b.truncate(0);
    CHECK(cache.num_free_pages() == 4);
    CHECK_THROWS_AS(b.truncate(1), Error);
    CHECK_THROWS_AS(b.truncate(-1), Error);
    CHECK_THROWS_AS(b.grow(-1), Error);
    CHECK_THROWS_AS(a.grow(std::numeric_limits<int>::max()), Error);

    Sequence moved(std::move(a));
    CHECK(moved.size() == 5);
    CHECK(cache.num_free_pages() == 4);
  }
  CHECK(cache.num_free_pages() == 6);
}

TEST_CASE("caches of impossible sizes are refused") {
  ModelConfig config = test_support::small_config();
  CHECK_THROWS_AS(PagedCache(config, Precision::kFloat32, 0, 16), Error);
  CHECK_THROWS_AS(PagedCache(config, Precision::kFloat32, 1, 0), Error);
  CHECK_THROWS_AS(PagedCache(config, Precision::kFloat32, -1, 16), Error);
  config.num_kv_heads = config.head_dim = config.num_layers = 1 << 20;
  CHECK_THROWS_AS(PagedCache(config, Precision::kFloat32, 1 << 30, 1 << 30), Error);
  PagedCache cache(test_support::small_config(), Precision::kFloat32, 2, 4);
  CHECK_THROWS_AS((void)cache.take_pages(-1), Error);
  CHECK_THROWS_AS((void)cache.take_pages(3), Error);
}

}  // namespace
