// Prompts placed from a store of chunks: documents wherever they stand, and exact prefixes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "mini_engine/pikv_bridge.hpp"
#include "mini_engine/serve/known_documents.hpp"
#include "mini_engine/serve/metrics.hpp"
#include "mini_engine/serve/prompt_placer.hpp"

namespace mini_engine::serve {

struct ChunkPlacerOptions {
  bool use_chunks = true;  ///< false: documents are text, and only exact prefixes are reused
  /// Which rows of reused documents are computed anew; must know them ahead. Null: none.
  std::shared_ptr<const pikv::RepairPolicy> repair{};
  std::int32_t max_document_tokens = 1 << 30;  ///< longer documents are text; at most what the server's cache holds
  /// Of documents to remember, so that they are reused in text too, where nobody marked them; 0: none.
  std::int64_t max_known_tokens = 0;
};

/// A document that the store lacks is encoded alone, in a pass of its own, before its prompt is placed; when the store
/// has no room for it, its prompt computes it.
class ChunkPlacer final : public PromptPlacer {
 public:
  /// Server and metrics must outlive it and what it places. The server's cache must not be the scheduler's: whoever
  /// admits a request has counted its pages. Throws Error for a repair policy that a batch cannot follow.
  ChunkPlacer(ChunkServer& server, ServeMetrics& metrics, const ChunkPlacerOptions& options);

  [[nodiscard]] PlacedPrompt place(std::span<const PromptSegment> segments, Sequence& sequence) override;

 private:
  void add_document(std::span<const TokenId> tokens, pikv::Prompt& prompt);

  ChunkServer& server_;
  ServeMetrics& metrics_;
  ChunkPlacerOptions options_;
  KnownDocuments known_;
};

}  // namespace mini_engine::serve
