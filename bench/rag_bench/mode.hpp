// The kinds of serving that are compared.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mini_engine/engine/engine.hpp"
#include "pikv/repair_policies.hpp"
#include "pikv/slab.hpp"

namespace rag_bench {

struct Mode {
  enum class Kind : std::uint8_t { kFull, kExactPrefix, kChunks };
  std::string name;
  Kind kind = Kind::kFull;
  mini_engine::ChunkPlace place = mini_engine::ChunkPlace::kDevice;
  pikv::SlabFormat format = pikv::SlabFormat::kPlain;
  std::shared_ptr<const pikv::RepairPolicy> repair{};  ///< null: none
};

/// "full", "prefix", "device", "pinned-bf16" or "pinned-fp8"; the last three may end in "+SPEC", for repair by a policy
/// that knows its rows ahead, as pikv::make_repair_policy() takes it, or "+N", for "+first:N". Throws Error for
/// anything else.
[[nodiscard]] Mode parse_mode(const std::string& text);

/// Of a list that was split at its commas, some of which may belong to the options of a spec.
[[nodiscard]] std::vector<Mode> parse_modes(std::span<const std::string> parts);

}  // namespace rag_bench
