#include "lab/run/craft_variants.hpp"

#include <algorithm>
#include <optional>
#include <span>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_errors.hpp"

namespace lab {
namespace {

using mini_engine::TokenId;
using Stats = pikv::ChunkContextStats;
using KeyMap = std::unordered_map<pikv::ChunkKey, pikv::ChunkKey>;

/// The same, of a prompt in which passages go by other keys.
Stats renamed(Stats stats, const KeyMap& names) {
  for (pikv::PrecedingChunk& chunk : stats.preceding) {
    if (const auto other = names.find(chunk.key); other != names.end()) chunk.key = other->second;
  }
  return stats;
}

}  // namespace

CraftVariants::CraftVariants(mini_engine::Engine& engine, mini_engine::PagedCache& scratch,
                             mini_engine::ChunkServer& server, const CaseFile& file)
    : server_(server), meter_(engine.model(), scratch, engine.reuse_device(mini_engine::ChunkPlace::kDevice)) {
  for (const Case& one : file.cases) {
    add_prompt(one, one.earlier);
    std::vector<std::size_t> backwards(one.earlier.rbegin(), one.earlier.rend());
    if (backwards != one.served) add_prompt(one, std::move(backwards));
    prompts_seen_[one.id] = prompts_.size();
  }
}

void CraftVariants::add_prompt(const Case& one, std::vector<std::size_t> order) {
  const std::size_t prompt = prompts_.size();
  prompts_.push_back({.of = &one, .order = std::move(order), .stats = {}});
  for (std::size_t place = 0; place < prompts_[prompt].order.size(); ++place) {
    const CasePassage& passage = one.passages[prompts_[prompt].order[place]];
    std::vector<Variant>& known = variants_[passage.id];
    if (known.size() == kMostVariants) continue;
    Variant variant{.key = {}, .prompt = prompt, .place = place};
    variant.key = server_.chunk_key(passage.tokens, context_of(variant));
    const bool is_new =
        std::none_of(known.begin(), known.end(), [&](const Variant& other) { return other.key == variant.key; });
    if (is_new) known.push_back(variant);
  }
}

std::vector<TokenId> CraftVariants::context_of(const Variant& variant) const {
  const EarlierPrompt& prompt = prompts_[variant.prompt];
  std::vector<TokenId> tokens = prompt.of->system;
  for (const std::size_t index : std::span(prompt.order).first(variant.place)) {
    const std::vector<TokenId>& passage = prompt.of->passages[index].tokens;
    tokens.insert(tokens.end(), passage.begin(), passage.end());
  }
  return tokens;
}

/// What a passage is called in statistics, whichever variant of it stands there: its text behind its system prompt.
pikv::ChunkKey CraftVariants::name_of(const Case& one, std::size_t passage) const {
  return server_.chunk_key(one.passages[passage].tokens, one.system);
}

const Stats& CraftVariants::stats_of(const Variant& variant) {
  EarlierPrompt& prompt = prompts_[variant.prompt];
  if (prompt.stats.empty()) {
    std::vector<NamedPassage> passages;
    for (const std::size_t index : prompt.order) {
      passages.push_back({.key = name_of(*prompt.of, index), .tokens = prompt.of->passages[index].tokens});
    }
    prompt.stats = meter_.measure(prompt.of->system, passages);
  }
  return prompt.stats[variant.place];
}

CraftPrompt CraftVariants::prepare(const Case& one, double alpha) {
  const auto seen = prompts_seen_.find(one.id);
  if (seen == prompts_seen_.end()) throw mini_engine::Error("cache-craft: case '" + one.id + "' is not of the file");

  pikv::Prompt prompt;
  (void)server_.encode_chunk(one.system, {});
  prompt.add_chunk(one.system, server_.recipe({}));
  std::vector<pikv::ChunkKey> preceding;
  KeyMap reused_as;  // keys of the chosen variants, by the passages' names
  auto stats_by_key = std::make_shared<std::unordered_map<pikv::ChunkKey, std::shared_ptr<const Stats>>>();
  for (const std::size_t index : one.served) {
    const std::vector<TokenId>& tokens = one.passages[index].tokens;
    std::span<const Variant> variants = variants_.at(one.passages[index].id);
    const auto is_met = [&](const Variant& variant) { return variant.prompt < seen->second; };
    variants = variants.first(static_cast<std::size_t>(std::count_if(variants.begin(), variants.end(), is_met)));
    std::vector<Stats> stats;
    for (const Variant& variant : variants) stats.push_back(stats_of(variant));
    const std::size_t chosen = pikv::choose_variant(stats, preceding, alpha).value();
    const Variant& variant = variants[chosen];
    const std::vector<TokenId> context = context_of(variant);
    (void)server_.encode_chunk(tokens, context);
    prompt.add_chunk(tokens, server_.recipe(context));
    // The policy looks for what stands before a chunk by the keys of this prompt.
    (*stats_by_key)[variant.key] = std::make_shared<const Stats>(renamed(std::move(stats[chosen]), reused_as));
    preceding.push_back(name_of(one, index));
    reused_as.emplace(preceding.back(), variant.key);
  }
  prompt.add_fresh(one.question);
  const auto lookup = [stats_by_key](const pikv::ChunkKey& key) -> std::shared_ptr<const Stats> {
    const auto found = stats_by_key->find(key);
    return found == stats_by_key->end() ? nullptr : found->second;
  };
  return {.prompt = std::move(prompt), .repair = mini_engine::take(pikv::make_cache_craft_policy(lookup, alpha))};
}

}  // namespace lab
