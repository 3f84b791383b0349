#include "lab/run/arm_spec.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "pikv/repair_policies.hpp"

namespace lab {
namespace {

using Kind = ArmSpec::Kind;
using Context = ArmSpec::Context;

struct Named {
  std::string_view name, group;
  Kind kind;
  Context context = Context::kSystem;
  pikv::SlabFormat format = pikv::SlabFormat::kPlain;
};

constexpr std::array kArms = {
    Named{"full", "reference", Kind::kFull},
    Named{"shuffled-full", "order", Kind::kShuffledFull},
    Named{"sorted-prefix", "order", Kind::kSortedFull},
    Named{"no-context", "control", Kind::kNoContext},
    Named{"gold-only", "control", Kind::kGoldOnly},
    Named{"block-mask", "control", Kind::kBlockMask},
    Named{"exact-prefix", "control", Kind::kExactPrefix},
    Named{"reuse-local", "reuse", Kind::kReuseLocal, Context::kNothing},
    Named{"reuse-stale", "reuse", Kind::kReuseStale, Context::kNothing},
    Named{"reanchored", "reuse", Kind::kReanchored, Context::kNothing},
    Named{"reanchored-behind-system", "reuse", Kind::kReanchored},
    Named{"reanchored-neighbours", "reuse", Kind::kReanchored, Context::kNeighbours},
    Named{"ape", "reuse", Kind::kApe},
    Named{"format:fp8", "format", Kind::kReanchored, Context::kSystem, pikv::SlabFormat::kFloat8},
    Named{"format:int8", "format", Kind::kReanchored, Context::kSystem, pikv::SlabFormat::kInt8},
    Named{"format:int4", "format", Kind::kReanchored, Context::kSystem, pikv::SlabFormat::kInt4},
};

constexpr std::string_view kCraft = "cache-craft:";

std::optional<ArmSpec> parse_craft(const std::string& name) {
  if (!name.starts_with(kCraft)) return std::nullopt;
  ArmSpec arm{.name = name, .group = "repair", .kind = Kind::kCacheCraft};
  const char* const end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kCraft.size(), end, arm.craft_alpha);
  if (parsed.ec != std::errc() || parsed.ptr != end || !std::isfinite(arm.craft_alpha) || arm.craft_alpha < 0) {
    throw mini_engine::Error("arm '" + name + "': ALPHA is not a finite number of 0 or more");
  }
  return arm;
}

}  // namespace

ArmSpec parse_arm(const std::string& name) {
  if (std::optional<ArmSpec> craft = parse_craft(name)) return *std::move(craft);
  const std::size_t plus = name.find('+');
  const std::string_view base = std::string_view(name).substr(0, plus);
  for (const Named& known : kArms) {
    if (known.name != base) continue;
    ArmSpec arm{.name = name,
                .group = std::string(known.group),
                .kind = known.kind,
                .context = known.context,
                .format = known.format};
    if (plus == std::string::npos) return arm;
    if (known.kind != Kind::kReanchored) break;
    arm.group = "repair";
    arm.repair = mini_engine::take(pikv::make_repair_policy(std::string_view(name).substr(plus + 1)));
    return arm;
  }
  std::string message = "no arm '" + name + "'; there are";
  for (const Named& known : kArms) message += " " + std::string(known.name);
  throw mini_engine::Error(message + " cache-craft:ALPHA, the re-anchored ones also with +POLICY");
}

}  // namespace lab
