// What check_model() vouches for, and what it refuses and why: one sound probe, and many with one thing wrong.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "mini_engine/check_probe.hpp"
#include "mini_engine/cpu_model.hpp"
#include "mini_engine/model_file.hpp"
#include "support/broken_probe.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::PagedCache;
using mini_engine::Precision;
using pikv::CheckOutcome;
using test_support::BrokenProbe;
using test_support::Fault;

constexpr int kPageSize = 16;

CpuModel tiny_model() {
  mini_engine::ModelConfig config = test_support::small_config();
  config.rope.scaling = mini_engine::RopeScaling::kLlama3;
  config.rope.factor = 8.0;
  config.rope.original_max_positions = 64;
  return CpuModel(test_support::MemoryModel(config, 3), {.num_threads = 1});
}

pikv::CheckReport check_tiny(Fault fault, test_support::ProbeAbilities abilities = {},
                             Precision precision = Precision::kFloat32) {
  CpuModel model = tiny_model();
  PagedCache cache(model.config(), precision, model.config().max_positions / kPageSize, kPageSize);
  BrokenProbe probe(model, cache, {.store_dtype = mini_engine::dtype_of(precision)}, fault, abilities);
  return pikv::check_model(probe);
}

const pikv::ModelCheck& named(const pikv::CheckReport& report, const std::string& name) {
  const auto found = std::find_if(report.checks.begin(), report.checks.end(),
                                  [&](const pikv::ModelCheck& check) { return check.name == name; });
  REQUIRE(found != report.checks.end());
  return *found;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a sound model is vouched for, whatever its engine can do beyond a pass") {
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const bool hands_out : {true, false}) {
      for (const bool masks : {true, false}) {
        CAPTURE(hands_out);
        CAPTURE(masks);
        const pikv::CheckReport report = check_tiny(Fault::kNone, {hands_out, masks}, precision);
        INFO(to_text(report));
        CHECK(report.vouched);
        CHECK(report.reason.empty());
        CHECK(named(report, "capture").outcome == (hands_out ? CheckOutcome::kPassed : CheckOutcome::kNotChecked));
        CHECK(contains(to_text(report), hands_out ? "\nvouched for (" : "\nvouched for, except for capture ("));
        CHECK(contains(named(report, "keys").detail, hands_out ? "all layers" : "layer 0"));
        if (hands_out) CHECK(contains(named(report, "keys").detail, "bit for bit"));
        for (const pikv::ModelCheck& check : report.checks) {
          CHECK((check.outcome == CheckOutcome::kPassed || !check.is_essential));
        }
        if (precision == Precision::kFloat32) {
          CHECK(*named(report, "control").measured > 1000 * *named(report, "placed").measured);
        }
      }
    }
  }
}

TEST_CASE("whatever is wrong is refused, with the reason") {
  struct Case {
    Fault fault;
    const char* check;   // the first that does not pass
    const char* reason;  // part of the report's
    CheckOutcome outcome = CheckOutcome::kFailed;
    test_support::ProbeAbilities abilities{};
  };
  const Case cases[] = {
      {Fault::kWrongPairing, "keys", "keys match with half-split pairs, the RopeConfig says interleaved"},
      {Fault::kWrongPairing, "keys", "keys match with half-split pairs", CheckOutcome::kFailed, {false, true}},
      {Fault::kWrongBase, "keys", "another base or scaling"},
      {Fault::kWrongBase, "keys", "another base or scaling", CheckOutcome::kFailed, {false, true}},
      {Fault::kScalingLeftOut, "keys", "times the"},
      {Fault::kWrongRotarySize, "keys", "keys match with a rotary size of 16, the geometry says 8"},
      {Fault::kOffByOne, "keys", "keys match at positions 1 above", CheckOutcome::kFailed, {true, false}},
      {Fault::kCapturedAfterTurn, "keys", "keys match without any rotation"},
      {Fault::kCapturedBeforeNorm, "keys", "a bias or a key norm"},
      {Fault::kUniformlyScaledKeys, "keys", "multiplies keys by 2, the table by 1"},
      {Fault::kSwapped, "keys", "what was handed out as keys is what the engine wrote as values"},
      {Fault::kWrongValues, "keys", "values part from position 0"},
      {Fault::kCacheIgnored, "control", "placed keys hardly matter", CheckOutcome::kFailed, {true, false}},
      {Fault::kForeignRowsIgnored, "placed", "other answers than behind the chunk computed there"},
      {Fault::kDocumentsIgnored, "block-diagonal", "3 chunks, against one pass with a document mask"},
      {Fault::kWrongMagnitude, "round trip", "position 256"},
      {Fault::kHolesSeen, "free position", "rows out of `context` are seen"},
      {Fault::kSlotsMixedUp, "keys", "keys part from position"},
      {Fault::kSlotOutside, "probe", "slots[0] is 592, the cache has 592"},
      {Fault::kNanLogits, "free position", "is not a finite number"},
      {Fault::kTooFewLogits, "free position", "logits for 8 rows of a vocabulary of 101"},
      {Fault::kThrows, "keys", "the probe's compute(): threw: the engine is on fire"},
      {Fault::kReturnsError, "probe", "the probe's begin_sequence(): no pages left"},
      {Fault::kNoContext, "keys", "this engine cannot leave rows out", CheckOutcome::kNotChecked},
      {Fault::kDynamicNtk, "frequencies", "changes frequencies with the length"},
      {Fault::kFloat8Pages, "cache type", "not exact"},
      {Fault::kTooFewRows, "probe", "max_rows is 40, too few for 3 chunks"},
  };
  for (const Case& wrong : cases) {
    const pikv::CheckReport report = check_tiny(wrong.fault, wrong.abilities);
    INFO(to_text(report));
    CHECK_FALSE(report.vouched);
    CHECK(named(report, wrong.check).outcome == wrong.outcome);
    CHECK(report.reason.rfind(wrong.check, 0) == 0);
    CHECK(contains(report.reason, wrong.reason));
    CHECK(contains(to_text(report), "NOT vouched for: " + report.reason));
  }
}

TEST_CASE("another base is told by how much the worst pair turns") {
  // Head size 16 and base 10,000 times 50: pair i turns 50^(i/8) times as fast as the configuration says.
  const pikv::CheckReport report = [] {
    mini_engine::ModelConfig config = test_support::small_config();
    CpuModel model(test_support::MemoryModel(config, 3), {.num_threads = 1});
    PagedCache cache(model.config(), Precision::kFloat32, model.config().max_positions / kPageSize, kPageSize);
    BrokenProbe probe(model, cache, {}, Fault::kWrongBase);
    return pikv::check_model(probe);
  }();
  INFO(to_text(report));
  CHECK(contains(report.reason, "pair 1 turns 0.3162 radians a position, 1.631 times the 0.1939 of the RopeConfig"));
}

TEST_CASE("SmolLM2 is vouched for in well under a minute") {
  const char* path = std::getenv("PIKV_SMOLLM2");
  if (path == nullptr) {
    MESSAGE("skipped on SmolLM2: PIKV_SMOLLM2 is not set");
    return;
  }
  CpuModel model(*mini_engine::open_model(path), {});
  PagedCache cache(model.config(), Precision::kFloat32, 4096 / kPageSize, kPageSize);
  mini_engine::CheckProbe probe(model, cache, {});
  const pikv::CheckReport report = pikv::check_model(probe);
  MESSAGE(to_text(report));
  CHECK(report.vouched);
  CHECK(report.seconds < 60);
}
