// Names of arms: what each stands for, and which are refused.
#include "lab/run/arm_spec.hpp"

#include <doctest/doctest.h>

#include <string>

#include "mini_engine/error.hpp"

namespace {

using lab::ArmSpec;
using lab::parse_arm;

TEST_CASE("names of arms") {
  const ArmSpec alone = parse_arm("reanchored");
  CHECK(alone.kind == ArmSpec::Kind::kReanchored);
  CHECK(alone.context == ArmSpec::Context::kNothing);
  CHECK(alone.group == "reuse");
  CHECK(alone.repair == nullptr);
  CHECK(parse_arm("reanchored-neighbours").context == ArmSpec::Context::kNeighbours);
  CHECK(parse_arm("format:int4").format == pikv::SlabFormat::kInt4);
  CHECK(parse_arm("full").group == "reference");

  const ArmSpec repaired = parse_arm("reanchored-behind-system+first:16");
  CHECK(repaired.name == "reanchored-behind-system+first:16");
  CHECK(repaired.context == ArmSpec::Context::kSystem);
  CHECK(repaired.group == "repair");
  CHECK(repaired.repair != nullptr);
}

TEST_CASE("names that are none") {
  CHECK_THROWS_WITH_AS((void)parse_arm("fulll"), doctest::Contains("no arm 'fulll'"), mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)parse_arm(""), doctest::Contains("reanchored-behind-system"), mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)parse_arm("full+first:16"), doctest::Contains("no arm 'full+first:16'"),
                       mini_engine::Error);
  CHECK_THROWS_AS((void)parse_arm("reanchored+"), mini_engine::Error);
  CHECK_THROWS_WITH_AS((void)parse_arm("reanchored+magic:1"), doctest::Contains("magic"), mini_engine::Error);
}

}  // namespace
