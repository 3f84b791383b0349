#include "rag_demo/hit_rate.hpp"

#include <array>
#include <cstddef>
#include <memory>

#include "pikv/pikv.hpp"

namespace rag_demo {
namespace {

constexpr pikv::KvGeometry kTinyGeometry{
    .num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .rotary_dim = 2, .dtype = pikv::DType::kFloat16};
constexpr std::int32_t kBlockTokens = 16;

/// A cache that remembers which chunks it holds; their bytes do not matter here.
class Ledger {
 public:
  explicit Ledger(std::int32_t max_positions)
      : backend_(pikv::make_cpu_backend({.num_threads = 1})),
        store_(pikv::Store::create({.geometry = kTinyGeometry, .capacity_bytes = std::int64_t{1} << 40}).value()),
        keyer_(pikv::ChunkKeyer::create({.model = {},
                                         .geometry = kTinyGeometry,
                                         .rope = rope(),
                                         .name_space = "private:replay",
                                         .secret = kSecret})
                   .value()),
        table_(pikv::RopeTable::build(rope(), kTinyGeometry.rotary_dim, max_positions).value()) {}

  /// Serves a prompt: counts what is found and stores what is missed. Returns the tokens found.
  std::int64_t serve(const pikv::Prompt& prompt, bool use_chunks) {
    const pikv::Composer composer =
        pikv::Composer::create(
            *store_, *backend_, keyer_, table_,
            {.use_exact_prefix = true, .use_chunks = use_chunks, .prefix_block_tokens = kBlockTokens})
            .value();
    const pikv::PlannedPrompt planned = composer.plan(prompt).value();
    const std::int64_t found = planned.plan.stats().reused_tokens();

    const auto rows = pikv::SlotMap::consecutive(0, planned.plan.num_rows());
    for (const pikv::CaptureItem& item : pikv::exact_prefix_items(keyer_, planned.plan, kBlockTokens, rows)) {
      remember(item.key, item.recipe, item.tokens);
    }
    if (!use_chunks) return found;
    for (const pikv::Segment& segment : prompt.segments()) {
      if (!segment.recipe.has_value()) continue;
      const auto tokens = prompt.tokens().subspan(static_cast<std::size_t>(segment.row_begin),
                                                  static_cast<std::size_t>(segment.row_end - segment.row_begin));
      remember(keyer_.key(*segment.recipe, tokens), *segment.recipe, tokens);
    }
    return found;
  }

 private:
  static constexpr std::array<std::byte, 16> kSecret{};

  static pikv::RopeConfig rope() {
    return pikv::RopeConfig(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  }

  void remember(const pikv::ChunkKey& key, const pikv::ChunkRecipe& recipe, std::span<const TokenId> tokens) {
    pikv::ChunkWriter writer = store_->begin_insert(key, recipe, tokens).value();
    if (writer.outcome() == pikv::InsertOutcome::kInserted) (void)writer.commit().value();
  }

  std::unique_ptr<pikv::Backend> backend_;
  std::unique_ptr<pikv::Store> store_;
  pikv::ChunkKeyer keyer_;
  pikv::RopeTable table_;
};

}  // namespace

HitRates replay_hit_rates(std::span<const Request> requests, const PromptBuilder& builder,
                          std::span<const std::vector<TokenId>> passages) {
  std::int64_t longest = 1;
  HitRates rates;
  std::vector<pikv::Prompt> fresh, chunked;
  for (const Request& request : requests) {
    fresh.push_back(make_prompt(request, Mode::kExactPrefix, builder, passages, pikv::ChunkRecipe::alone()));
    chunked.push_back(make_prompt(request, Mode::kReanchored, builder, passages, pikv::ChunkRecipe::alone()));
    longest = std::max(longest, fresh.back().num_rows());
    rates.num_tokens += fresh.back().num_rows();
  }
  Ledger prefix_cache(static_cast<std::int32_t>(longest));
  Ledger chunk_cache(static_cast<std::int32_t>(longest));
  std::int64_t prefix_tokens = 0;
  std::int64_t chunk_tokens = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    prefix_tokens += prefix_cache.serve(fresh[i], /*use_chunks=*/false);
    chunk_tokens += chunk_cache.serve(chunked[i], /*use_chunks=*/true);
  }
  rates.num_requests = static_cast<std::int64_t>(requests.size());
  if (rates.num_tokens > 0) {
    rates.prefix = static_cast<double>(prefix_tokens) / static_cast<double>(rates.num_tokens);
    rates.chunk = static_cast<double>(chunk_tokens) / static_cast<double>(rates.num_tokens);
  }
  return rates;
}

}  // namespace rag_demo
