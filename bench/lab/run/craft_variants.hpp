// Cache-Craft's store of variants: passages as earlier prompts computed them, and which of them a new prompt reuses.
//
// Earlier prompts are those of the cases up to and with the one that is served: each shows its passages in two orders
// that are not the served one. Which variants there are thus depends on the file alone, not on what has been run.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/context_stats.hpp"
#include "mini_engine/engine/engine.hpp"
#include "pikv/cache_craft.hpp"

namespace lab {

/// A case's served prompt, whose passages are all stored, and the repair that goes with the variants it reuses.
struct CraftPrompt {
  pikv::Prompt prompt;
  std::unique_ptr<pikv::RepairPolicy> repair;
};

/// Not thread-safe. All arguments must outlive it.
class CraftVariants {
 public:
  static constexpr std::size_t kMostVariants = 4;  ///< of a passage, those met first

  /// scratch: where prompts are measured.
  CraftVariants(mini_engine::Engine& engine, mini_engine::PagedCache& scratch, mini_engine::ChunkServer& server,
                const CaseFile& file);

  /// Chooses, encodes and measures whatever has not been yet. one: of the file. To be served without exact prefixes:
  /// system prompt and passages are chunks all. Throws mini_engine::Error for a case of another file, and as
  /// ChunkServer does.
  [[nodiscard]] CraftPrompt prepare(const Case& one, double alpha);

 private:
  /// A passage where it stood in an earlier prompt.
  struct Variant {
    pikv::ChunkKey key;
    std::size_t prompt = 0;  // index into prompts_
    std::size_t place = 0;   // among its passages
  };
  struct EarlierPrompt {
    const Case* of = nullptr;
    std::vector<std::size_t> order;
    std::vector<pikv::ChunkContextStats> stats;  // by place; empty: not measured yet
  };

  void add_prompt(const Case& one, std::vector<std::size_t> order);
  [[nodiscard]] std::vector<mini_engine::TokenId> context_of(const Variant& variant) const;
  [[nodiscard]] const pikv::ChunkContextStats& stats_of(const Variant& variant);
  [[nodiscard]] pikv::ChunkKey name_of(const Case& one, std::size_t passage) const;

  mini_engine::ChunkServer& server_;
  ContextStatsMeter meter_;
  std::vector<EarlierPrompt> prompts_;                         // in the order of the file
  std::unordered_map<std::string, std::size_t> prompts_seen_;  // by a case's id: how many there are when it is served
  std::unordered_map<std::string, std::vector<Variant>> variants_;  // by a passage's id, in the order of the prompts
};

}  // namespace lab
