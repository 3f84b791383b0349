// What theory fixes about arms, on a small model of random weights.
#include "lab/run/case_runner.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "lab/run/case_prompts.hpp"
#include "lab/run/lab_cases.hpp"
#include "lab/run/map_cells.hpp"
#include "lab/run/neighbours.hpp"
#include "mini_engine/engine/engine.hpp"
#include "mini_engine/error.hpp"
#include "support/memory_model.hpp"

namespace {

using lab::ArmResult;
using lab::parse_arm;
using mini_engine::TokenId;
using Tokens = std::vector<TokenId>;

/// Beyond what rounding leaves, and far below what any loss does here.
constexpr double kExact = 1e-9;
constexpr std::size_t kForced = 6;

struct World {
  explicit World(lab::CaseRunnerOptions options = {.num_forced = kForced, .generates = true})
      : file(test_support::lab_cases(2)),
        model(test_support::small_config(), 5),
        engine(mini_engine::make_engine(model, {.num_threads = 2})),
        runner(*engine, {}, file, options) {}

  lab::CaseFile file;
  test_support::MemoryModel model;
  std::unique_ptr<mini_engine::Engine> engine;
  lab::CaseRunner runner;
};

double kl_of(World& world, const std::string& arm) { return lab::mean_kl(world.runner.run(parse_arm(arm))); }

TEST_CASE("arms that lose nothing, and arms that do") {
  World world;
  for (const lab::Case& one : world.file.cases) {
    CAPTURE(one.id);
    world.runner.begin(one);
    for (const char* exact : {"full", "exact-prefix", "reanchored+all", "reanchored-behind-system+all"}) {
      CAPTURE(exact);
      CHECK(std::abs(kl_of(world, exact)) <= kExact);
    }
    for (const char* lossy : {"shuffled-full", "no-context", "gold-only", "reuse-local", "reuse-stale", "reanchored",
                              "reanchored-behind-system", "ape", "format:int4"}) {
      CAPTURE(lossy);
      CHECK(kl_of(world, lossy) > 100 * kExact);
    }
  }
}

TEST_CASE("chunks encoded alone are the block mask") {
  World world;
  for (const lab::Case& one : world.file.cases) {
    world.runner.begin(one);
    const ArmResult masked = world.runner.run(parse_arm("block-mask"));
    const ArmResult reused = world.runner.run(parse_arm("reanchored"));
    REQUIRE(masked.kl.size() == kForced);
    for (std::size_t i = 0; i < kForced; ++i) CHECK(reused.kl[i] == doctest::Approx(masked.kl[i]).epsilon(1e-3));
    world.runner.begin(one, lab::ArmSpec::Kind::kBlockMask);
    CHECK(std::abs(kl_of(world, "reanchored")) <= kExact);
    CHECK(kl_of(world, "reuse-local") > 100 * kExact);
  }
}

TEST_CASE("rows are counted") {
  World world;
  const lab::Case& one = world.file.cases[0];
  world.runner.begin(one);
  const ArmResult reused = world.runner.run(parse_arm("reanchored"));
  CHECK(reused.prompt_rows == static_cast<std::int64_t>(one.num_tokens()));
  CHECK(reused.approx_rows == 21 + 16 + 33 + 18);
  CHECK(reused.rows == 0);
  CHECK(world.runner.run(parse_arm("reanchored+first:2")).rows == doctest::Approx(8));
}

TEST_CASE("a store without room for a case's passages is refused") {
  const mini_engine::ModelConfig config = test_support::small_config();
  const std::int64_t token_bytes = std::int64_t{8} * config.num_layers * config.num_kv_heads * config.head_dim;
  World world({.num_forced = kForced, .store_bytes = 84 * token_bytes});  // 88 are asked for
  world.runner.begin(world.file.cases[0]);
  for (const char* arm : {"reanchored", "cache-craft:1"}) {
    CAPTURE(arm);
    CHECK_THROWS_WITH_AS((void)world.runner.run(parse_arm(arm)), doctest::Contains("--store-mib"), mini_engine::Error);
  }
}

TEST_CASE("what passages were encoded behind is no prefix of the prompts that begin so") {
  World world({.num_forced = kForced, .num_neighbours = 1});
  const lab::Neighbours neighbours(world.file.cases, 1);
  int num_prompts = 0;
  for (lab::Case one : world.file.cases) {
    std::size_t num_passage_tokens = 0;
    for (const lab::CasePassage& passage : one.passages) num_passage_tokens += passage.tokens.size();
    for (const lab::CasePassage& passage : one.passages) {
      const Tokens& nearest = *neighbours.of(passage.id).front();
      const auto first =
          std::ranges::find_if(one.served, [&](std::size_t index) { return one.passages[index].tokens == nearest; });
      if (first == one.served.end()) continue;
      ++num_prompts;
      std::rotate(one.served.begin(), first, first + 1);
      world.runner.begin(one);
      const ArmResult reused = world.runner.run(parse_arm("reanchored-neighbours"));
      CHECK(reused.approx_rows == static_cast<std::int64_t>(num_passage_tokens));
    }
  }
  CHECK(num_prompts > 0);
}

TEST_CASE("an arm's answer is a plain greedy one to its prompt") {
  World world;
  for (const lab::Case& one : world.file.cases) {
    world.runner.begin(one);
    for (const char* name : {"full", "shuffled-full", "sorted-prefix", "no-context", "gold-only"}) {
      CAPTURE(name);
      const lab::ArmSpec arm = parse_arm(name);
      const ArmResult result = world.runner.run(arm);
      Tokens prompt = lab::tokens_of(one, lab::order_of(one, arm.kind));
      Tokens reply;
      while (reply.size() < kForced) {
        mini_engine::PagedCache cache = world.engine->make_cache(32, 16);
        mini_engine::Sequence sequence(cache);
        sequence.grow(static_cast<int>(prompt.size()));
        const std::vector<float> logits =
            test_support::run_rows(world.engine->model(), sequence, prompt, 0, sequence.size());
        const auto last = logits.end() - test_support::small_config().vocab_size;
        reply.push_back(static_cast<TokenId>(std::max_element(last, logits.end()) - last));
        prompt.push_back(reply.back());
      }
      REQUIRE(result.generated.has_value());
      CHECK(*result.generated == reply);
    }
  }
}

TEST_CASE("places of the map where nothing is lost") {
  World world({.num_forced = kForced, .measures_gold_alone = true});
  const lab::MapCells cells(world.file, "prophet", 1);
  int num_shifts = 0, num_alone = 0;
  for (const std::string axis : {"shift", "neighbours"}) {
    for (const lab::MapCell& cell : cells.make(axis, 1)) {
      if (cell.prompt.num_tokens() > 180) continue;  // what the runner has room for
      CAPTURE(cell.place.name());
      world.runner.begin(cell.prompt, cell.reference);
      const ArmResult result = world.runner.run(cell.arm);
      REQUIRE(!result.v_err.empty());
      const bool is_shift = cell.place.axis == "shift";
      const bool is_alone = axis == "neighbours" && cell.prompt.passages.size() == 1;
      if (is_shift || is_alone) {
        CHECK(std::abs(lab::mean_kl(result)) <= kExact);
        CHECK(*std::max_element(result.v_err.begin(), result.v_err.end()) < 1e-5);
      } else if (axis == "neighbours" || cell.prompt.system.size() > 0) {
        CHECK(lab::mean_kl(result) > 100 * kExact);
      }
      num_shifts += is_shift ? 1 : 0;
      num_alone += is_alone ? 1 : 0;
    }
  }
  CHECK(num_shifts >= 2);
  CHECK(num_alone >= 1);
}

TEST_CASE("places of the map are the same each time, and each its own") {
  const lab::CaseFile file = test_support::lab_cases(3);
  const lab::MapCells cells(file, "prophet", 1), again(file, "prophet", 1);
  for (const std::string& axis : lab::MapCells::axes()) {
    CAPTURE(axis);
    std::vector<std::string> names;
    const auto made = cells.make(axis, 0), repeated = again.make(axis, 0);
    REQUIRE(made.size() == repeated.size());
    CHECK(!made.empty());
    for (std::size_t i = 0; i < made.size(); ++i) {
      names.push_back(made[i].place.name());
      CHECK(lab::tokens_of(made[i].prompt, made[i].prompt.served) ==
            lab::tokens_of(repeated[i].prompt, repeated[i].prompt.served));
      CHECK(std::ranges::count(made[i].prompt.passages, true, &lab::CasePassage::gold) == 1);
    }
    std::ranges::sort(names);
    CHECK(std::ranges::adjacent_find(names) == names.end());
  }
}

}  // namespace
