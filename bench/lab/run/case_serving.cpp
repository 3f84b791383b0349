#include "lab/run/case_serving.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "lab/ape_attention.hpp"
#include "lab/observer_chain.hpp"
#include "lab/run/case_prompts.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/pikv_bridge.hpp"

namespace lab {
namespace {

using mini_engine::ChunkServer;
using mini_engine::PagedCache;
using mini_engine::TokenId;
using Kind = ArmSpec::Kind;
using Tokens = std::vector<TokenId>;

constexpr int kPageSize = 16;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Tokens joined(const Tokens& first, std::span<const Tokens* const> others) {
  Tokens all = first;
  for (const Tokens* const other : others) all.insert(all.end(), other->begin(), other->end());
  return all;
}

int pages_for(std::size_t rows) { return static_cast<int>(rows / kPageSize + 2); }

std::size_t longest_prompt(const CaseFile& file) {
  std::size_t longest = 0;
  for (const Case& one : file.cases) longest = std::max(longest, one.num_tokens());
  return longest;
}

}  // namespace

std::vector<std::int32_t> consecutive_rows(std::int32_t begin, std::size_t count) {
  std::vector<std::int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), begin);
  return rows;
}

CaseServing::CaseServing(mini_engine::Engine& engine, const std::array<std::byte, 32>& fingerprint,
                         const CaseFile& file, const CaseServingOptions& options)
    : engine_(engine),
      fingerprint_(fingerprint),
      file_(file),
      options_(options),
      neighbours_(file.cases, options.num_neighbours),
      cache_(engine.make_cache(2 * pages_for(longest_prompt(file) + 256), kPageSize)),
      scratch_(
          engine.make_cache(pages_for(static_cast<std::size_t>(engine.model().config().max_positions)), kPageSize)),
      pool_(options.num_threads) {}

void CaseServing::serve(const ArmSpec& arm, Served& served, ArmResult& result) {
  switch (arm.kind) {
    case Kind::kExactPrefix:
      serve_exact_prefix(served, result);
      break;
    case Kind::kReuseLocal:
    case Kind::kReuseStale:
    case Kind::kReanchored:
      serve_chunks(arm, served, result);
      break;
    case Kind::kCacheCraft:
      serve_variants(arm, served, result);
      break;
    case Kind::kApe:
      serve_ape(arm, served, result);
      break;
    default:
      serve_whole(arm.kind, served, result);
  }
  result.prompt_rows = served.sequence.size();
}

std::vector<float> CaseServing::compute(Served& served, std::span<const TokenId> tokens, std::size_t first_logit) {
  const std::vector<std::int32_t> rows = consecutive_rows(served.sequence.size(), tokens.size());
  const std::vector<std::int32_t> wanted =
      consecutive_rows(static_cast<std::int32_t>(first_logit), tokens.size() - first_logit);
  served.sequence.grow(static_cast<int>(tokens.size()));
  if (!served.documents.empty()) {
    served.documents.resize(static_cast<std::size_t>(served.sequence.size()), mini_engine::Pass::kSeesAll);
  }
  return engine_.model().forward(mini_engine::Pass{.tokens = tokens,
                                                   .rows = rows,
                                                   .logit_rows = wanted,
                                                   .documents = served.documents,
                                                   .observer = served.attention.get()},
                                 served.sequence);
}

std::unique_ptr<ChunkServer> CaseServing::make_server(pikv::SlabFormat format) {
  return std::make_unique<ChunkServer>(
      engine_.model(), scratch_, fingerprint_,
      mini_engine::ChunkServerOptions{.capacity_bytes = options_.store_bytes,
                                      .store_dtype = engine_.store_dtype(),
                                      .encoding = {.format = format},
                                      .name_space = "private:lab",
                                      .device = engine_.reuse_device(mini_engine::ChunkPlace::kDevice)});
}

/// Arms that encode behind other contexts have stores of their own: what one of them encodes behind could be an exact
/// prefix of a prompt of another.
ChunkServer& CaseServing::server(const ArmSpec& arm) {
  std::unique_ptr<ChunkServer>& made = servers_[{arm.format, arm.context}];
  if (made == nullptr) made = make_server(arm.format);
  return *made;
}

/// Their store is their own: the other arms would find the prompts that variants come from as exact prefixes.
CraftVariants& CaseServing::craft_variants() {
  if (!craft_variants_) {
    craft_server_ = make_server(pikv::SlabFormat::kPlain);
    craft_variants_.emplace(engine_, scratch_, *craft_server_, file_);
  }
  return *craft_variants_;
}

/// What the passage is encoded behind.
Tokens CaseServing::context_of(const ArmSpec& arm, std::size_t passage) const {
  switch (arm.context) {
    case ArmSpec::Context::kNothing:
      return {};
    case ArmSpec::Context::kSystem:
      return one_->system;
    case ArmSpec::Context::kNeighbours:
      break;
  }
  // As many of the nearest as the model has positions for, the nearest next to the passage.
  std::vector<const Tokens*> others = neighbours_.of(one_->passages[passage].id);
  std::size_t rows = one_->system.size() + one_->passages[passage].tokens.size();
  const auto most = static_cast<std::size_t>(engine_.model().config().max_positions);
  std::size_t fitting = 0;
  while (fitting < others.size() && rows + others[fitting]->size() <= most) rows += others[fitting++]->size();
  others.resize(fitting);
  std::reverse(others.begin(), others.end());
  return joined(one_->system, others);
}

void CaseServing::encode(const ArmSpec& arm, ChunkServer& with) {
  for (std::size_t i = 0; i < one_->passages.size(); ++i) {
    (void)with.encode_chunk(one_->passages[i].tokens, context_of(arm, i));
  }
  if (!arm.uses_exact_prefix()) (void)with.encode_chunk(one_->system, {});
}

/// A chunk that was evicted while others of its case were encoded is computed, and what its arm loses would be
/// underestimated without a word.
void CaseServing::require_reuse(const pikv::CompositionPlan& plan) const {
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    if (piece.miss == pikv::MissReason::kNone) continue;
    throw mini_engine::Error("case '" + one_->id + "': the chunk at row " + std::to_string(piece.row_begin) +
                             " is not there to be reused (" + pikv::miss_reason_name(piece.miss) + "): a store of " +
                             std::to_string(options_.store_bytes) +
                             " bytes has no room for all and what they are encoded behind; raise --store-mib");
  }
}

void CaseServing::serve_whole(Kind kind, Served& served, ArmResult& result) {
  const Tokens tokens = tokens_of(*one_, order_of(*one_, kind));
  if (kind == Kind::kBlockMask) served.documents = block_documents(*one_);
  const double start = now();
  served.logits = compute(served, tokens, tokens.size() - 1);
  result.ms = (now() - start) * 1e3;
}

void CaseServing::serve_exact_prefix(Served& served, ArmResult& result) {
  const std::unique_ptr<ChunkServer> with = make_server(pikv::SlabFormat::kPlain);
  const mini_engine::ReuseOptions prefixes{.use_chunks = false};
  for (const bool earlier : {true, false}) {
    pikv::Prompt prompt;
    prompt.add_fresh(tokens_of(*one_, earlier ? one_->earlier : one_->served));
    served.sequence.truncate(0);
    const double start = now();
    served.logits = with->prefill(prompt, served.sequence, prefixes).logits;
    result.ms = (now() - start) * 1e3;
  }
}

void CaseServing::serve_chunks(const ArmSpec& arm, Served& served, ArmResult& result) {
  ChunkServer& with = server(arm);
  encode(arm, with);
  const pikv::Prompt prompt =
      chunk_prompt(*one_, arm, [&](std::size_t passage) { return with.recipe(context_of(arm, passage)); });
  prefill(with, prompt,
          {.use_exact_prefix = arm.uses_exact_prefix(), .store_exact_prefix = false, .repair = arm.repair.get()},
          served, result);
}

/// Blocks of exact prefix would stand in the place of chunks, by whose keys the policy knows what stands before a
/// chunk.
void CaseServing::serve_variants(const ArmSpec& arm, Served& served, ArmResult& result) {
  const CraftPrompt of = craft_variants().prepare(*one_, arm.craft_alpha);
  prefill(*craft_server_, of.prompt,
          {.use_exact_prefix = false, .store_exact_prefix = false, .repair = of.repair.get()}, served, result);
}

void CaseServing::prefill(ChunkServer& with, const pikv::Prompt& prompt, const mini_engine::ReuseOptions& reuse,
                          Served& served, ArmResult& result) {
  const double start = now();
  mini_engine::Prefill done = with.prefill(prompt, served.sequence, reuse);
  result.ms = (now() - start) * 1e3;
  served.logits = std::move(done.logits);
  require_reuse(done.plan);
  const pikv::PlanStats& stats = done.plan.stats();
  result.rows = done.repair.rows(engine_.model().config().num_layers);
  result.passes = done.repair.num_passes;
  result.approx_rows = stats.approximate_tokens + stats.repaired_tokens;
}

void CaseServing::serve_ape(const ArmSpec& arm, Served& served, ArmResult& result) {
  ChunkServer& with = server(arm);
  encode(arm, with);
  const pikv::Prompt prompt =
      chunk_prompt(*one_, arm, [&](std::size_t passage) { return with.recipe(context_of(arm, passage)); });
  ApeRows rows{.prefix = static_cast<std::int32_t>(one_->system.size())};
  for (const std::size_t index : one_->served) {
    rows.contexts.push_back(static_cast<std::int32_t>(one_->passages[index].tokens.size()));
  }
  served.attention = std::make_unique<ApeAttention>(engine_.model(), served.sequence, rows, ApeOptions{}, pool_);
  const double start = now();
  served.sequence.grow(static_cast<int>(prompt.num_rows()));
  const auto placement = with.place(prompt, served.sequence, {.store_exact_prefix = false});
  ObserverChain observers({placement->observer(), served.attention.get()});
  const std::span<const std::int32_t> computed = placement->plan().rows_to_compute();
  Tokens tokens;
  for (const std::int32_t row : computed) tokens.push_back(prompt.tokens()[static_cast<std::size_t>(row)]);
  const auto last = static_cast<std::int32_t>(tokens.size() - 1);
  served.logits = engine_.model().forward(
      mini_engine::Pass{.tokens = tokens, .rows = computed, .logit_rows = {&last, 1}, .observer = &observers},
      served.sequence);
  placement->finish();
  result.ms = (now() - start) * 1e3;
  require_reuse(placement->plan());
  result.approx_rows = placement->plan().stats().approximate_tokens;
}

}  // namespace lab
