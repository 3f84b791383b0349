// Serving requests in each mode on one model, and measuring what comes out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "mini_engine/tokenizer.hpp"
#include "rag_demo/request.hpp"

namespace rag_demo {

/// How stored chunks were encoded.
enum class ChunkContext {
  kAlone,         ///< nothing before them
  kBehindSystem,  ///< behind the prompt's own beginning, whose rows were dropped
};

struct SessionOptions {
  ChunkContext chunk_context = ChunkContext::kBehindSystem;
  pikv::DType store_dtype = pikv::DType::kFloat32;
  std::int64_t store_bytes = std::int64_t{512} << 20;  ///< of each of the two stores
  std::int32_t num_threads = 0;
  int max_answer_tokens = 24;
  int num_forced_tokens = 16;  ///< over which distributions are compared
  int num_repeats = 3;         ///< of the time to first token in the modes that reuse chunks; the median counts
};

/// One request served in one mode.
struct ModeRun {
  Mode mode = Mode::kFull;
  double ttft_ms = 0;  ///< from token ids to the first token: look-up, plan, re-anchoring, computation
  pikv::PlanStats rows;
  double kl = 0;    ///< mean KL(full || mode) over the forced tokens, in nats
  double top1 = 0;  ///< share of forced tokens at which both put the same token first
  std::string answer;
  std::optional<double> f1;  ///< of the answer's first phrase; nothing when the request has no known answers
};

struct IngestReport {
  std::int64_t num_documents = 0, num_tokens = 0, num_bytes = 0;
  double seconds = 0;
};

/// Not thread-safe. Model and tokenizer must outlive it.
class Session {
 public:
  Session(mini_engine::Model& model, const mini_engine::Tokenizer& tokenizer, const PromptBuilder& builder,
          std::span<const std::vector<TokenId>> passages, const std::array<std::byte, 32>& fingerprint,
          const SessionOptions& options);

  /// Encodes the documents that the requests use and are not stored yet.
  IngestReport ingest(std::span<const Request> requests, const std::function<void(std::int64_t done)>& progress);

  /// Serves the request in every mode. Before that, the exact prefix cache gets to see the earlier request.
  /// begin: called before a mode's answer; piece: with its text as it is generated.
  std::vector<ModeRun> serve(const Request& request, const std::function<void(Mode)>& begin,
                             const std::function<void(const std::string&)>& piece);

  [[nodiscard]] mini_engine::ChunkServer& chunk_server() { return chunk_server_; }

 private:
  struct Reference {
    std::vector<TokenId> tokens;  // the forced ones
    std::vector<float> logits;    // [num_forced_tokens][V]
  };
  mini_engine::Prefill measure(const Request& request, Mode mode, mini_engine::Sequence& sequence, ModeRun& run);
  Reference make_reference(const std::vector<float>& first_logits, mini_engine::Sequence& sequence);
  void compare(const Reference& reference, const std::vector<float>& first_logits, mini_engine::Sequence& sequence,
               ModeRun& run);
  std::string answer(const std::vector<float>& first_logits, mini_engine::Sequence& sequence,
                     const std::function<void(const std::string&)>& piece);
  [[nodiscard]] std::span<const TokenId> chunk_prefix() const;

  mini_engine::Model& model_;
  const mini_engine::Tokenizer& tokenizer_;
  const PromptBuilder& builder_;
  std::span<const std::vector<TokenId>> passages_;
  SessionOptions options_;
  mini_engine::PagedCache cache_;
  // Two stores, so that no mode profits from what another one computed.
  mini_engine::ChunkServer chunk_server_;
  mini_engine::ChunkServer prefix_server_;
};

}  // namespace rag_demo
