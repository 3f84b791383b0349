// Where the engine meets pikv: the one file pair that knows both, and what an integrator copies.
//
// It says how the engine's cache lies in memory and which rotation it uses, serves prompts composed from cached chunks,
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
#include "pikv/pikv.hpp"

namespace mini_engine {

/// What the model keeps for each token, with the store's dtype.
[[nodiscard]] pikv::KvGeometry kv_geometry(const ModelConfig& config, pikv::DType store_dtype);
/// The model's rotation in pikv's words. A GGUF file's frequency divisors have no name there; they are weights and thus
/// part of the model's fingerprint.
[[nodiscard]] pikv::RopeConfig rope_config(const ModelConfig& config);
/// The engine's own cos/sin table, so that keys equal the engine's bit for bit.
[[nodiscard]] pikv::RopeTable rope_table(const Model& model);
/// The engine's cache, all layers. Valid while the cache lives.
[[nodiscard]] pikv::KvView cache_view(PagedCache& cache);
/// Slots of a sequence's rows. Valid until the sequence changes.
[[nodiscard]] pikv::SlotMap row_slots(const Sequence& sequence);

struct ChunkServerOptions {
  std::int64_t capacity_bytes = std::int64_t{1} << 30;  ///< of the store
  pikv::DType store_dtype = pikv::DType::kFloat32;
  std::string name_space = "private:mini_engine";
  std::vector<std::byte> secret;  ///< at least 16 bytes; empty: random, keys then last as long as the process
  std::int32_t num_threads = 0;   ///< of the re-anchoring backend; 0: all cores
  std::int32_t prefix_block_tokens = 16;
};

/// Which kinds of reuse a request may use.
struct ReuseOptions {
  bool use_exact_prefix = true;
  bool use_chunks = true;
  bool store_exact_prefix = true;  ///< keep this prompt's exact rows for later prefixes
};

/// A served prompt: the sequence holds K and V of every row.
struct Prefill {
  std::vector<float> logits;  ///< [V], of the last row
  pikv::CompositionPlan plan;
};

/// Serves prompts on one model from a store of chunks. One call at a time, like the model it drives. Model and cache
/// must outlive it. Throws Error with pikv's own message when a call is refused.
class ChunkServer {
 public:
  ChunkServer(Model& model, PagedCache& cache, const std::array<std::byte, 32>& model_fingerprint,
              const ChunkServerOptions& options);
  ~ChunkServer();

  /// Encodes `tokens` behind `prefix`, whose rows are dropped, or alone when it is empty, and stores the chunk.
  /// Returns false when it was there already. Throws Error when the store has no room.
  bool encode_chunk(std::span<const TokenId> tokens, std::span<const TokenId> prefix);
  /// The recipe that encode_chunk() used for this prefix.
  [[nodiscard]] pikv::ChunkRecipe recipe(std::span<const TokenId> prefix) const;
  /// The key of a chunk so encoded.
  [[nodiscard]] pikv::ChunkKey chunk_key(std::span<const TokenId> tokens, std::span<const TokenId> prefix) const;

  /// Composes the prompt into `sequence`, which must be empty, and computes what is left.
  [[nodiscard]] Prefill prefill(const pikv::Prompt& prompt, Sequence& sequence, const ReuseOptions& reuse);

  [[nodiscard]] pikv::Store& store();
  [[nodiscard]] const pikv::ChunkKeyer& keyer() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine
