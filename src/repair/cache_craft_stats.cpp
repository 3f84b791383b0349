#include <algorithm>
#include <cmath>
#include <string>

#include "pikv/cache_craft.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// Where each preceding chunk stands in the new context; nothing: nowhere, or every such place is another's already.
std::vector<std::optional<std::size_t>> new_places(const ChunkContextStats& stats,
                                                   std::span<const ChunkKey> new_preceding) {
  std::vector<bool> taken(new_preceding.size());
  std::vector<std::optional<std::size_t>> places;
  for (const PrecedingChunk& chunk : stats.preceding) {
    std::optional<std::size_t>& place = places.emplace_back();
    for (std::size_t i = 0; i < new_preceding.size() && !place; ++i) {
      if (!taken[i] && new_preceding[i] == chunk.key) place = i;
    }
    if (place) taken[*place] = true;
  }
  return places;
}

bool is_sum(double value) { return std::isfinite(value) && value >= 0; }

Status unsound(const std::string& what) { return invalid_argument("chunk context stats: " + what); }

}  // namespace

Status validate(const ChunkContextStats& stats) {
  if (stats.num_tokens < 1) return unsound("num_tokens: is " + std::to_string(stats.num_tokens));
  for (std::size_t i = 0; i < stats.preceding.size(); ++i) {
    const std::string field = "preceding[" + std::to_string(i) + "].";
    const PrecedingChunk& chunk = stats.preceding[i];
    if (chunk.num_tokens < 1) return unsound(field + "num_tokens: is " + std::to_string(chunk.num_tokens));
    if (!is_sum(chunk.inter_attention)) {
      return unsound(field + "inter_attention: is " + std::to_string(chunk.inter_attention));
    }
  }
  if (!is_sum(stats.intra_attention)) return unsound("intra_attention: is " + std::to_string(stats.intra_attention));
  if (stats.token_inter_attention.size() != static_cast<std::size_t>(stats.num_tokens)) {
    return unsound("token_inter_attention: has " + std::to_string(stats.token_inter_attention.size()) +
                   " elements for " + std::to_string(stats.num_tokens) + " tokens");
  }
  for (std::size_t i = 0; i < stats.token_inter_attention.size(); ++i) {
    if (is_sum(stats.token_inter_attention[i])) continue;
    return unsound("token_inter_attention[" + std::to_string(i) + "]: is " +
                   std::to_string(stats.token_inter_attention[i]));
  }
  return {};
}

double chunk_context_impact(const ChunkContextStats& stats) noexcept {
  const auto num_tokens = static_cast<double>(stats.num_tokens);
  double inter = 0;
  for (const PrecedingChunk& chunk : stats.preceding) {
    inter += chunk.inter_attention / (num_tokens * static_cast<double>(chunk.num_tokens));
  }
  if (inter == 0) return 0.5;  // whatever the chunk paid itself, zero included
  return 1 / (1 + std::exp(-inter / (stats.intra_attention / (num_tokens * num_tokens))));
}

double prefix_overlap(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding) {
  const std::vector<std::optional<std::size_t>> places = new_places(stats, new_preceding);
  double total = 0;
  double common = 0;
  for (std::size_t i = 0; i < places.size(); ++i) {
    total += stats.preceding[i].inter_attention;
    if (places[i]) common += stats.preceding[i].inter_attention;
  }
  if (total > 0) return common / total;
  if (places.empty()) return new_preceding.empty() ? 1 : 0;
  return std::all_of(places.begin(), places.end(), [](const auto& place) { return place.has_value(); }) ? 1 : 0;
}

double prefix_disorder(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding) {
  std::vector<std::size_t> common;  // in the old order
  for (const std::optional<std::size_t>& place : new_places(stats, new_preceding)) {
    if (place) common.push_back(*place);
  }
  if (common.size() < 2) return 0;
  std::size_t num_discordant = 0;
  for (std::size_t i = 0; i < common.size(); ++i) {
    for (std::size_t j = i + 1; j < common.size(); ++j) num_discordant += common[i] > common[j] ? 1U : 0U;
  }
  const double num_pairs = static_cast<double>(common.size()) * static_cast<double>(common.size() - 1) / 2;
  return static_cast<double>(num_discordant) / num_pairs;
}

double adjusted_prefix_overlap(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding) {
  return prefix_overlap(stats, new_preceding) * (1 - prefix_disorder(stats, new_preceding));
}

double recompute_share(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding, double alpha) {
  return std::clamp(alpha * chunk_context_impact(stats) * (1 - adjusted_prefix_overlap(stats, new_preceding)), 0.0,
                    1.0);
}

std::optional<std::size_t> choose_variant(std::span<const ChunkContextStats> variants,
                                          std::span<const ChunkKey> new_preceding, double alpha) {
  std::optional<std::size_t> best;
  double least = 0;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const double share = recompute_share(variants[i], new_preceding, alpha);
    if (best && share >= least) continue;
    best = i;
    least = share;
  }
  return best;
}

}  // namespace v0
}  // namespace pikv
