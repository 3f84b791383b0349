// The ways of serving a prompt that are compared, by name.
#pragma once

#include <memory>
#include <string>

#include "pikv/repair.hpp"
#include "pikv/slab.hpp"

namespace lab {

/// One arm of the experiment.
struct ArmSpec {
  enum class Kind {
    kFull,          ///< everything computed: the reference
    kShuffledFull,  ///< the same with the passages in another order: how much order alone moves answers
    kSortedFull,    ///< the same in an order that does not depend on the question, as cache-aware ordering serves
    kNoContext,     ///< no passages
    kGoldOnly,      ///< none but the passages that hold the answer
    kBlockMask,     ///< everything computed, each passage seeing itself alone: what re-anchored chunks must equal
    kExactPrefix,   ///< behind an earlier request for the same passages in another order
    kReuseLocal,    ///< chunks with their keys at positions 0, 1, ...
    kReuseStale,    ///< chunks with their keys where an earlier request had them
    kReanchored,    ///< chunks with their keys turned to where they stand
    kCacheCraft,    ///< chunks as some earlier prompt computed them, of those the one that costs least to repair
    kApe,           ///< parallel encoding with temperature and scale
  };
  /// What stood before a chunk when it was encoded.
  enum class Context { kNothing, kSystem, kNeighbours };

  std::string name;
  std::string group;  ///< of arms in reports
  Kind kind = Kind::kFull;
  Context context = Context::kSystem;
  pikv::SlabFormat format = pikv::SlabFormat::kPlain;
  std::shared_ptr<const pikv::RepairPolicy> repair{};  ///< of kReanchored; null: none
  double craft_alpha = 0;                              ///< of kCacheCraft

  /// Whether prompts of chunks may begin with an exact prefix. Not behind neighbours: a prompt may begin as what a
  /// passage was encoded behind, which the store then has or not, by what was served before. Their system part is a
  /// chunk instead, as exact as a prefix.
  [[nodiscard]] bool uses_exact_prefix() const { return context != Context::kNeighbours; }
};

/// "full", "shuffled-full", "sorted-prefix", "no-context", "gold-only", "block-mask", "exact-prefix", "reuse-local",
/// "reuse-stale", "ape", "format:fp8", "format:int8", "format:int4" (behind the system prompt),
/// "cache-craft:ALPHA", or "reanchored", "reanchored-behind-system", "reanchored-neighbours", these with "+SPEC" for a
/// repair policy as pikv::make_repair_policy() takes it. Throws mini_engine::Error for anything else.
[[nodiscard]] ArmSpec parse_arm(const std::string& name);

}  // namespace lab
