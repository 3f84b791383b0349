// Several threads compose and place against a store that evicts, fetches and erases all the while.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "pikv/composer.hpp"
#include "support/fake_tier.hpp"
#include "support/kv_world.hpp"

namespace {

using pikv::ChunkRecipe;
using pikv::Prompt;
using pikv::SlotMap;
using test_support::EngineCache;
using test_support::FakeTier;
using test_support::Fault;
using test_support::token_run;
using test_support::World;
using test_support::WorldOptions;

constexpr int kNumDocuments = 8;
constexpr std::size_t kDocumentTokens = 10;

std::vector<pikv::TokenId> document(int index) {
  return token_run(static_cast<pikv::TokenId>(1000 * (index + 1)), kDocumentTokens);
}

Prompt prompt_of(int number) {
  Prompt prompt;
  prompt.add_fresh(token_run(1, 9));
  for (int i = 0; i < 3; ++i) prompt.add_chunk(document((number + i * i) % kNumDocuments), ChunkRecipe::alone());
  prompt.add_fresh(token_run(static_cast<pikv::TokenId>(number), 2));
  return prompt;
}

}  // namespace

TEST_CASE("composer: threads that share a store get what their plans say") {
  const auto tier = std::make_shared<FakeTier>();
  // Room for about four documents, so that prompts push each other's out.
  World world(WorldOptions{.capacity_bytes = 12000, .tiers = {tier}});
  std::atomic<int> num_wrong{0};
  std::atomic<std::int64_t> num_reused{0};
  std::atomic<bool> stop{false};

  const auto serve = [&](int thread_index) {
    EngineCache cache(world.geometry(), pikv::DType::kBFloat16, 4, 16);
    // On a busy machine documents may come in late: serve on until some have been pushed out.
    const auto goes_on = [&](int round) {
      return round < 60 || (world.store().stats().evictions == 0 && round < 100'000);
    };
    for (int round = 0; goes_on(round); ++round) {
      const auto composition = world.composer().compose(prompt_of(thread_index * 31 + round));
      if (!composition.ok()) {
        ++num_wrong;
        continue;
      }
      cache = EngineCache(world.geometry(), pikv::DType::kBFloat16, 4, 16);
      const SlotMap rows = SlotMap::consecutive(0, composition->plan().num_rows());
      bool right = true;
      for (std::int32_t layer = 0; layer < 3; ++layer) {
        right =
            right && composition->place_layer_async(layer, cache.view(), rows, pikv::StreamRef::legacy_default()).ok();
      }
      const auto expected = test_support::expected_slots(composition->plan(), rows, 64);
      right = right && test_support::misplaced(cache, world, expected, 0, 3).empty();
      if (!right) ++num_wrong;
      num_reused += composition->plan().stats().reused_tokens();
    }
  };
  const auto fill = [&] {
    for (int round = 0; !stop; ++round) {
      world.put(ChunkRecipe::alone(), document(round % kNumDocuments));
      if (round % 4 == 0) world.put_prefix(prompt_of(round).tokens(), 1);
      if (round % 7 == 0) {
        const auto key = world.keyer().key(ChunkRecipe::alone(), document((round / 7) % kNumDocuments));
        if (!world.store().erase(key).ok()) ++num_wrong;
      }
      tier->fault = round % 5 == 0 ? Fault::kUnavailable : Fault::kNone;
      std::this_thread::yield();
    }
  };

  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(serve, i);
  std::thread filler(fill);
  for (std::thread& thread : threads) thread.join();
  stop = true;
  filler.join();

  CHECK(num_wrong == 0);
  CHECK(num_reused > 0);
  CHECK(world.store().stats().evictions > 0);
  CHECK(world.store().stats().pinned_bytes == 0);
}
