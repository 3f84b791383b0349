#include "mini_engine/serve/chunk_placer.hpp"

#include <memory>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::serve {
namespace {

/// Stores what the passes gave when the last of them is done.
class PlacementHolder {
 public:
  explicit PlacementHolder(std::unique_ptr<Placement> placement) : placement_(std::move(placement)) {}
  ~PlacementHolder() {
    try {
      placement_->finish();
    } catch (const Error&) {  // a pass that failed half way leaves nothing to store
    }
  }
  PlacementHolder(const PlacementHolder&) = delete;
  PlacementHolder& operator=(const PlacementHolder&) = delete;

 private:
  std::unique_ptr<Placement> placement_;
};

std::uint64_t count_of(std::int64_t value) { return static_cast<std::uint64_t>(value); }

}  // namespace

ChunkPlacer::ChunkPlacer(ChunkServer& server, ServeMetrics& metrics, const ChunkPlacerOptions& options)
    : server_(server), metrics_(metrics), options_(options), known_(options.max_known_tokens) {
  if (options_.repair != nullptr) check_knows_rows_ahead(*options_.repair);
}

/// Encodes it where the store lacks it.
void ChunkPlacer::add_document(std::span<const TokenId> tokens, pikv::Prompt& prompt) {
  if (server_.try_encode_chunk(tokens, {}) == pikv::InsertOutcome::kInserted) {
    metrics_.encoded_document_tokens.add(tokens.size());
  }
  prompt.add_chunk(tokens, server_.recipe({}));
}

PlacedPrompt ChunkPlacer::place(std::span<const PromptSegment> segments, Sequence& sequence) {
  pikv::Prompt prompt;
  for (const PromptSegment& segment : segments) {
    const bool is_document = segment.kind == PromptSegment::Kind::kDocument;
    const bool is_long = segment.tokens.size() > static_cast<std::size_t>(options_.max_document_tokens);
    if (!options_.use_chunks || (is_document && is_long)) {
      prompt.add_fresh(segment.tokens);
    } else if (is_document) {
      add_document(segment.tokens, prompt);
      known_.add(server_.chunk_key(segment.tokens, {}), segment.tokens);
    } else {
      for (const KnownDocuments::Piece& piece : known_.split(segment.tokens)) {
        piece.is_document ? add_document(piece.tokens, prompt) : prompt.add_fresh(piece.tokens);
      }
    }
  }
  std::unique_ptr<Placement> placement =
      server_.place(prompt, sequence, {.use_chunks = options_.use_chunks, .repair = options_.repair.get()});

  const pikv::CompositionPlan& plan = placement->plan();
  metrics_.exact_tokens.add(count_of(plan.stats().exact_prefix_tokens + plan.stats().exact_segment_tokens));
  metrics_.approximate_tokens.add(count_of(plan.stats().approximate_tokens));
  metrics_.repaired_tokens.add(count_of(plan.stats().repaired_tokens));
  metrics_.moved_bytes.add(count_of(plan.stats().bytes_to_move));
  PlacedPrompt placed{.rows_to_compute = {plan.rows_to_compute().begin(), plan.rows_to_compute().end()},
                      .observer = placement->observer()};
  placed.holder = std::make_shared<PlacementHolder>(std::move(placement));
  return placed;
}

}  // namespace mini_engine::serve
