// Where the engine meets pikv: with pikv_views.hpp, the only files that know both, and what an integrator copies.
//
// It serves prompts composed from cached chunks,
// and captures chunks and exact prefixes out of the engine's own passes. The engine itself stays as it is.
//
//   ChunkServer server(model, cache, fingerprint, {.capacity_bytes = 1LL << 30});
//   server.encode_chunk(document, {});                       // once, ahead of time
//   pikv::Prompt prompt;                                     // system, documents in any order, question
//   Sequence sequence(cache);
//   Prefill prefill = server.prefill(prompt, sequence, {});  // logits of the last row
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/pikv_repair.hpp"
#include "mini_engine/pikv_views.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

/// What moves K and V, and where chunks lie. All must outlive the server and its placements.
struct ReuseDevice {
  pikv::Backend* backend = nullptr;              ///< null: a CPU backend, which the server makes itself
  pikv::MemoryResource* chunk_memory = nullptr;  ///< of stored chunks; null: the backend's own. May be page-locked
  pikv::RowScorer* scorer = nullptr;             ///< null: a CPU one, which goes with a CPU backend alone
  pikv::DriftCorrector* corrector = nullptr;     ///< likewise
  /// On which the model runs, so that what is queued on it comes before the passes that follow.
  pikv::StreamRef stream = pikv::StreamRef::legacy_default();
};

struct ChunkServerOptions {
  std::int64_t capacity_bytes = std::int64_t{1} << 30;  ///< of the store
  pikv::DType store_dtype = pikv::DType::kFloat32;
  pikv::SlabEncoding encoding{};  ///< of stored chunks
  std::string name_space = "private:mini_engine";
  std::vector<std::byte> secret{};  ///< at least 16 bytes; empty: random, keys then last as long as the process
  std::int32_t num_threads = 0;     ///< of the server's own CPU backend; 0: all cores
  std::int32_t prefix_block_tokens = 16;
  ReuseDevice device{};
};

/// Which kinds of reuse a request may use.
struct ReuseOptions {
  bool use_exact_prefix = true;
  bool use_chunks = true;
  bool store_exact_prefix = true;  ///< keep this prompt's exact rows for later prefixes
  /// Which rows of approximate chunks are computed anew; must outlive the call. Null: none.
  const pikv::RepairPolicy* repair = nullptr;
};

/// A prompt on its way into a sequence: its cached rows are placed, or queued to be; plan().rows_to_compute() are left.
/// Must not outlive server and sequence. Destroying it waits for what is queued, unless a pass has ended since.
class Placement {
 public:
  virtual ~Placement() = default;
  [[nodiscard]] virtual const pikv::CompositionPlan& plan() const = 0;
  /// Null: passes need nobody to look on. Else it sees every pass over rows_to_compute(), which come in order. What it
  /// takes is stored when the next pass begins, or by finish(); blocks of exact prefix that two passes share are not.
  [[nodiscard]] virtual PassObserver* observer() = 0;
  /// Once the last pass has ended, or no more will come. Throws Error as ChunkServer does.
  virtual void finish() = 0;
};

/// A served prompt: the sequence holds K and V of every row.
struct Prefill {
  std::vector<float> logits;   ///< [V], of the last row
  pikv::CompositionPlan plan;  ///< as it was carried out: rows that repair computed are repaired rows
  RepairCost repair;
};

/// Serves prompts on one model from a store of chunks. One call at a time, like the model it drives. Model and cache
/// must outlive it. Throws Error with pikv's own message when a call is refused.
class ChunkServer {
 public:
  /// cache: where chunks are encoded; the sequences that are served may be of another one.
  ChunkServer(Model& model, PagedCache& cache, const std::array<std::byte, 32>& model_fingerprint,
              const ChunkServerOptions& options);
  ~ChunkServer();

  /// Encodes `tokens` behind `prefix`, whose rows are dropped, or alone when it is empty, and stores the chunk.
  /// Returns false when it was there already, which is a use of it: others are evicted first. Throws Error when the
  /// store has no room.
  bool encode_chunk(std::span<const TokenId> tokens, std::span<const TokenId> prefix);
  /// The same, but having no room is an outcome.
  [[nodiscard]] pikv::InsertOutcome try_encode_chunk(std::span<const TokenId> tokens, std::span<const TokenId> prefix);
  /// The recipe that encode_chunk() used for this prefix.
  [[nodiscard]] pikv::ChunkRecipe recipe(std::span<const TokenId> prefix) const;
  /// The key of a chunk so encoded.
  [[nodiscard]] pikv::ChunkKey chunk_key(std::span<const TokenId> tokens, std::span<const TokenId> prefix) const;

  /// Composes the prompt into `sequence`, which has a row for each of its tokens and nothing in them. The repair policy
  /// must be one that knows its rows ahead (rows_known_ahead()).
  [[nodiscard]] std::unique_ptr<Placement> place(const pikv::Prompt& prompt, Sequence& sequence,
                                                 const ReuseOptions& reuse);
  /// Composes the prompt into `sequence`, which must be empty, and computes what is left, by any repair policy.
  [[nodiscard]] Prefill prefill(const pikv::Prompt& prompt, Sequence& sequence, const ReuseOptions& reuse);

  [[nodiscard]] pikv::Store& store();
  [[nodiscard]] const pikv::ChunkKeyer& keyer() const;

 private:
  class Placing;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine
