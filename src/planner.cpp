// Composer::plan(): look-ups and the order in which kinds of reuse are tried.
#include <algorithm>
#include <deque>
#include <string>

#include "pikv/composer.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// Collects pieces and their look-ups side by side.
class PlanDraft {
 public:
  void compute(std::int64_t begin, std::int64_t end, MissReason miss) {
    if (begin >= end) return;
    if (!pieces_.empty() && !pieces_.back().cached() && pieces_.back().miss == miss) {
      pieces_.back().row_end = end;
      return;
    }
    pieces_.push_back(PlanPiece{.row_begin = begin, .row_end = end, .miss = miss});
    lookups_.emplace_back();
  }

  void reuse(const PlanPiece& piece, Lookup lookup) {
    pieces_.push_back(piece);
    lookups_.push_back(std::move(lookup));
    exact_so_far_ = exact_so_far_ && piece.provenance != Provenance::kApproximate;
  }

  /// No approximate row so far.
  [[nodiscard]] bool exact_so_far() const { return exact_so_far_; }
  [[nodiscard]] std::vector<PlanPiece>& pieces() { return pieces_; }
  [[nodiscard]] std::vector<Lookup>& lookups() { return lookups_; }

 private:
  std::vector<PlanPiece> pieces_;
  std::vector<Lookup> lookups_;
  bool exact_so_far_ = true;
};

/// How many blocks of a prefix are asked of slower tiers at once: enough to hide a tier's latency behind the blocks
/// before it, few enough that a prompt whose prefix nobody knows costs a tier little.
constexpr std::size_t kPrefixLookahead = 16;

/// The blocks of a prompt's beginning, looked up in order.
class PrefixBlocks {
 public:
  PrefixBlocks(Store& store, const ChunkKeyer& keyer, std::span<const TokenId> tokens, std::size_t block_tokens)
      : store_(store), keyer_(keyer), tokens_(tokens), block_tokens_(block_tokens), context_(keyer.empty_context()) {}

  struct Block {
    ChunkKey key;
    Lookup lookup;
  };

  /// The next block, as a hit or a miss. Requires: there is one.
  Block next() {
    if (ahead_.empty()) look_up();
    // Whether a slower tier holds a block shows only when it has come. Later ones come meanwhile.
    while (ahead_.front().lookup.state == LookupState::kPending && ahead_.size() < kPrefixLookahead &&
           tokens_.size() >= block_tokens_) {
      look_up();
    }
    Block block = std::move(ahead_.front());
    ahead_.pop_front();
    if (block.lookup.state == LookupState::kPending) {
      MissReason reason = MissReason::kNone;
      ChunkHandle chunk = block.lookup.ticket.wait(&reason);
      const LookupState state = chunk != nullptr ? LookupState::kHit : LookupState::kMiss;
      block.lookup = Lookup{.state = state, .chunk = std::move(chunk), .ticket = {}, .reason = reason};
    }
    return block;
  }

 private:
  void look_up() {
    const std::span<const TokenId> block = tokens_.first(block_tokens_);
    const ChunkKey key = keyer_.key(ChunkRecipe::exact_context(context_), block);
    ahead_.push_back(Block{.key = key, .lookup = store_.lookup(key, block)});
    context_ = keyer_.extend(context_, block);
    tokens_ = tokens_.subspan(block_tokens_);
  }

  Store& store_;
  const ChunkKeyer& keyer_;
  std::span<const TokenId> tokens_;  // not looked up yet
  std::size_t block_tokens_;
  ContextDigest context_;  // of tokens_
  std::deque<Block> ahead_;
};

/// Whether the chunk of a hit, or of a fetch that will bring what the store keeps, is stored in a lossy format.
bool is_lossy(const Store& store, const Lookup& lookup) {
  if (lookup.chunk != nullptr) return lookup.chunk->is_lossy();
  return store.encoding().format != SlabFormat::kPlain;
}

/// Adds the longest run of whole blocks of the prompt's beginning that the store holds; returns its end.
std::int64_t add_exact_prefix(Store& store, const ChunkKeyer& keyer, std::span<const TokenId> tokens,
                              std::int64_t last_row, std::int64_t block_tokens, PlanDraft& draft) {
  PrefixBlocks blocks(store, keyer, tokens.first(static_cast<std::size_t>(last_row)),
                      static_cast<std::size_t>(block_tokens));
  std::int64_t row = 0;
  while (row + block_tokens <= last_row) {
    PrefixBlocks::Block block = blocks.next();
    if (block.lookup.state == LookupState::kMiss) break;
    const bool exact = draft.exact_so_far() && !is_lossy(store, block.lookup);
    draft.reuse(PlanPiece{.source = PlanPiece::Source::kExactPrefix,
                          .provenance = exact ? Provenance::kExactPrefix : Provenance::kApproximate,
                          .row_begin = row,
                          .row_end = row + block_tokens,
                          .key = block.key,
                          .chunk_first_token = 0,
                          .chunk_num_tokens = block_tokens,
                          .first_position = static_cast<Position>(row)},
                std::move(block.lookup));
    row += block_tokens;
  }
  return row;
}

/// What is wrong with a prompt whatever the store holds.
Status check_segments(const Prompt& prompt, std::int32_t num_positions) {
  for (const Segment& segment : prompt.segments()) {
    if (!segment.recipe.has_value()) continue;
    if (!segment.recipe->position_free()) {
      return invalid_argument("compose: the chunk at row " + std::to_string(segment.row_begin) +
                              " has an exact-context recipe; exact prefixes are found, not asked for");
    }
    const Position first = segment.anchor.resolve(segment.row_begin);
    if (first < 0 || first > num_positions - (segment.row_end - segment.row_begin)) {
      return invalid_argument("compose: the chunk at row " + std::to_string(segment.row_begin) + " is anchored at " +
                              std::to_string(first) + ", from where it leaves the table's " +
                              std::to_string(num_positions) + " positions");
    }
  }
  return Status();
}

/// Whether a chunk of this recipe at the segment's place holds what computing it there would give.
bool is_exact_here(const ChunkKeyer& keyer, std::span<const TokenId> tokens, const Segment& segment,
                   const PlanDraft& draft) {
  if (!segment.anchor.is_in_place() || !draft.exact_so_far() || keyer.rope().depends_on_length()) return false;
  if (segment.recipe->kind() == ChunkRecipe::Kind::kAlone) return segment.row_begin == 0;
  const auto before = tokens.first(static_cast<std::size_t>(segment.row_begin));
  return segment.recipe->context() == keyer.extend(keyer.empty_context(), before);
}

}  // namespace

Result<PlannedPrompt> Composer::plan(const Prompt& prompt) const {
  const std::span<const TokenId> tokens = prompt.tokens();
  const std::int64_t num_rows = prompt.num_rows();
  if (num_rows == 0) return invalid_argument("compose: the prompt has no tokens");
  if (num_rows > table_.num_positions()) {
    return invalid_argument("compose: the prompt has " + std::to_string(num_rows) + " rows, but the table ends at " +
                            std::to_string(table_.num_positions()));
  }
  PIKV_TRY(check_segments(prompt, table_.num_positions()));
  const std::int64_t last_row = num_rows - 1;  // always computed: the engine needs its output

  PlanDraft draft;
  std::int64_t row = 0;
  // With frequencies that depend on the length, an equal context of another total length has other keys.
  if (options_.use_exact_prefix && !keyer_->rope().depends_on_length()) {
    row = add_exact_prefix(*store_, *keyer_, tokens, last_row, options_.prefix_block_tokens, draft);
  }

  for (const Segment& segment : prompt.segments()) {
    const std::int64_t begin = std::max(segment.row_begin, row);
    if (begin >= segment.row_end) continue;
    if (!segment.recipe.has_value() || !options_.use_chunks) {
      draft.compute(begin, segment.row_end, MissReason::kNone);
      continue;
    }
    const std::int64_t reuse_end = std::min(segment.row_end, last_row);
    const auto chunk_tokens = tokens.subspan(static_cast<std::size_t>(segment.row_begin),
                                             static_cast<std::size_t>(segment.row_end - segment.row_begin));
    const ChunkKey key = keyer_->key(*segment.recipe, chunk_tokens);
    Lookup lookup = begin < reuse_end ? store_->lookup(key, chunk_tokens) : Lookup{};
    if (lookup.state == LookupState::kMiss) {
      draft.compute(begin, segment.row_end, begin < reuse_end ? lookup.reason : MissReason::kNone);
      continue;
    }
    const bool exact = !is_lossy(*store_, lookup) && is_exact_here(*keyer_, tokens, segment, draft);
    const std::int64_t chunk_first_token = begin - segment.row_begin;
    draft.reuse(PlanPiece{.source = PlanPiece::Source::kChunk,
                          .provenance = exact ? Provenance::kExactSegment : Provenance::kApproximate,
                          .row_begin = begin,
                          .row_end = reuse_end,
                          .key = key,
                          .chunk_first_token = chunk_first_token,
                          .chunk_num_tokens = static_cast<std::int64_t>(chunk_tokens.size()),
                          .first_position =
                              static_cast<Position>(segment.anchor.resolve(segment.row_begin) + chunk_first_token)},
                std::move(lookup));
    draft.compute(reuse_end, segment.row_end, MissReason::kNone);
  }

  Result<CompositionPlan> plan = CompositionPlan::create(keyer_->geometry(), table_.num_positions(),
                                                         {tokens.begin(), tokens.end()}, std::move(draft.pieces()));
  if (!plan.ok()) return plan.status();
  return PlannedPrompt{std::move(*plan), std::move(draft.lookups())};
}

}  // namespace v0
}  // namespace pikv
