// What is told of repair: its cost, each row's provenance, and which policies can be followed without computing.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "mini_engine/error.hpp"
#include "support/repair_runs.hpp"

namespace {

using mini_engine::Prefill;
using mini_engine::Sequence;
using pikv::Provenance;
using test_support::repaired_rows;
using test_support::RepairWorld;
using test_support::Rows;

constexpr int kChunkRows = 37 + 29 + 18;

TEST_CASE("what repair costs is what the policy's passes add up to") {
  RepairWorld world;
  constexpr std::int64_t kLayers = 5;
  constexpr std::int64_t kFresh = 5 + 7;
  constexpr std::int64_t kAll = kChunkRows;  // 84
  struct Case {
    const char* spec;
    int num_passes;
    std::int64_t row_layers;
  };
  for (const Case& expected : {Case{"none", 1, 0}, Case{"all", 1, kAll * kLayers}, Case{"first:7", 1, 3 * 7 * kLayers},
                               Case{"ends:3", 1, 3 * 6 * kLayers}, Case{"random:0.25", 1, 21 * kLayers},
                               Case{"blend:0.3", 1, kAll * 2 + 25 * (kLayers - 2)},
                               Case{"blend:0.3,layer=3", 1, kAll * 4 + 25}, Case{"blend:0.3,layer=4", 1, kAll * 5},
                               // 84 times 0.3^(1/3), 0.3^(2/3) and 0.3: 56.2, 37.6, 25.2
                               Case{"blend-gradual:0.3", 1, kAll * 2 + 56 + 37 + 25}, Case{"blend:0", 1, 0},
                               Case{"attention:0.25", 2, kFresh * kLayers + 21 * kLayers},
                               Case{"prophet:0.25", 2, kFresh * kLayers + 21 * kLayers}, Case{"prophet:0", 1, 0},
                               Case{"attended-deviation:0.3", 2, kFresh * kLayers + kAll * 2 + 25 * (kLayers - 2)},
                               Case{"focus:0.25,stop=1", 2, kFresh * kLayers + (9 + 7 + 4) * kLayers}}) {
    CAPTURE(expected.spec);
    const Prefill prefill = world.serve(expected.spec);
    CHECK(prefill.repair.num_passes == expected.num_passes);
    CHECK(prefill.repair.row_layers == expected.row_layers);
    CHECK(prefill.repair.rows(kLayers) == doctest::Approx(static_cast<double>(expected.row_layers) / kLayers));
  }
  Sequence sequence(world.cache);
  const Prefill without = world.server.prefill(world.prompt(), sequence, RepairWorld::kChunksAlone);
  CHECK(without.repair.num_passes == 1);
  CHECK(without.repair.row_layers == 0);
}

TEST_CASE("repaired rows say so, and rows that were let go stay approximate") {
  RepairWorld world(test_support::repair_config(), 0);  // the first chunk stands where it was encoded
  for (const char* spec :
       {"first:7", "blend:0.3", "blend-gradual:0.3", "prophet:0.25", "focus:0.3,stop=0.5,mass=0.4"}) {
    CAPTURE(spec);
    const pikv::CompositionPlan plan = world.serve(spec).plan;
    const Rows repaired = repaired_rows(plan);
    CHECK(!repaired.empty());
    CHECK(plan.stats().repaired_tokens == static_cast<std::int64_t>(repaired.size()));
    CHECK(plan.stats().exact_segment_tokens == 37);
    CHECK(plan.stats().approximate_tokens == 29 + 18 - static_cast<std::int64_t>(repaired.size()));
    for (std::int32_t row = 0; row < plan.num_rows(); ++row) {
      CAPTURE(row);
      const Provenance expected = row < 37                                    ? Provenance::kExactSegment
                                  : row >= kChunkRows                         ? Provenance::kFresh
                                  : std::ranges::binary_search(repaired, row) ? Provenance::kRepaired
                                                                              : Provenance::kApproximate;
      CHECK(plan.provenance(row) == expected);
    }
  }
}

/// Says that it knows its rows ahead, and then measures, or comes back.
class Liar final : public pikv::RepairPolicy {
 public:
  explicit Liar(const char* spec) : policy_(pikv::make_repair_policy(spec).value()) {}
  std::string name() const override { return "liar"; }
  bool knows_rows_ahead() const override { return true; }
  pikv::Result<std::unique_ptr<pikv::RepairRun>> begin(const pikv::RepairRequest& request) const override {
    return policy_->begin(request);
  }

 private:
  std::unique_ptr<pikv::RepairPolicy> policy_;
};

TEST_CASE("only policies that know their rows ahead are placed, and place() agrees with prefill()") {
  RepairWorld world;
  const pikv::Prompt prompt = world.prompt();
  const auto place = [&](const pikv::RepairPolicy& policy) {
    Sequence sequence(world.cache);
    sequence.grow(static_cast<int>(prompt.num_rows()));
    mini_engine::ReuseOptions reuse = RepairWorld::kChunksAlone;
    reuse.repair = &policy;
    return repaired_rows(world.server.place(prompt, sequence, reuse)->plan());
  };
  for (const char* spec : {"none", "all", "first:7", "first:7,skip=1", "ends:3", "random:0.25"}) {
    CAPTURE(spec);
    CHECK(place(*pikv::make_repair_policy(spec).value()) == repaired_rows(world.serve(spec).plan));
  }
  CHECK_THROWS_WITH_AS((void)place(*pikv::make_repair_policy("blend:0.3").value()),
                       "repair: the policy 'blend:0.3' chooses rows while it computes, which only a request served on "
                       "its own can do",
                       mini_engine::Error);
  for (const char* spec : {"blend:0.3", "prophet:0.25"}) {
    CHECK_THROWS_WITH_AS((void)place(Liar(spec)),
                         "repair: the policy 'liar' says that it knows its rows ahead, and measures or comes back",
                         mini_engine::Error);
  }
}

}  // namespace
