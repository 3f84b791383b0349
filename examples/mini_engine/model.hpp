// The forward pass of a llama-architecture model over any rows of a sequence, whoever computes it.
//
// A row is one token at one place of a sequence. A pass computes the rows it is given and nothing else: it writes their
// K and V into the sequence's slots and lets each attend every row of the sequence whose position is not after its own,
// whether that row was computed now, earlier, or put there by somebody else. That is all a host needs for prefill,
// decoding, prefix reuse, composed chunks and repair alike.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config.hpp"
#include "paged_cache.hpp"
#include "types.hpp"

namespace mini_engine {

class Sampler;

/// K and V of the rows of a pass as the projections gave them: keys before rotation, both already rounded to the
/// cache's precision. They lie in the memory that the model computes in.
struct ProjectedRows {
  Precision precision = Precision::kFloat32;  ///< of the elements
  std::int64_t num_rows = 0;                  ///< R
  std::span<const std::int32_t> rows = {};    ///< [R] of the sequence, in host memory
  std::int64_t row_stride = 0;                ///< elements from one row's [H][D] to the next
  const void* keys = nullptr;                 ///< not null unless R is 0, like values
  const void* values = nullptr;
};

/// Queries of the rows of a pass that attend, turned to their positions, in the memory that the model computes in.
struct TurnedQueries {
  Precision precision = Precision::kFloat32;  ///< of the elements
  std::span<const std::int32_t> rows = {};    ///< [R] of the sequence, in host memory
  std::int64_t row_stride = 0;                ///< elements from one row's [Q][D] to the next
  const void* data = nullptr;                 ///< not null unless R is 0
};

/// Sees a pass from inside; every member is called on the thread that runs the pass. A model that works on a stream
/// calls when its own work is queued, not done: what the observer queues on that stream comes in between.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  /// Before layer `layer` reads the cache: rows that somebody else provides must be in place on return.
  virtual void before_layer(int layer) { (void)layer; }
  /// `rows` are valid for work done in this call, or queued by it.
  virtual void on_projected(int layer, const ProjectedRows& rows) { (void)layer, (void)rows; }
  /// Asked after on_projected(): which of its rows go on, as indices into them, ascending; nothing: all. The K and V
  /// of the others are stored, and that is the last that is computed of them. Rows whose logits are wanted must go on.
  [[nodiscard]] virtual std::optional<std::vector<std::int32_t>> rows_that_go_on(int layer) {
    (void)layer;
    return std::nullopt;
  }
  /// Once K and V of the layer are in the cache: `queries` are those of all rows that go on.
  virtual void on_queries(int layer, const TurnedQueries& queries) { (void)layer, (void)queries; }
  /// Asked after on_queries(): to compute the layer's attention in the model's place. out: [R][Q][D] without gaps, of the
  /// queries' precision and memory. Returns whether it has.
  [[nodiscard]] virtual bool attend(int layer, const TurnedQueries& queries, void* out) {
    (void)layer, (void)queries, (void)out;
    return false;
  }
};

/// What one pass computes.
struct Pass {
  std::span<const TokenId> tokens;     ///< [R]
  std::span<const std::int32_t> rows;  ///< [R] rows of the sequence, strictly ascending; position of a row = its index
  std::span<const std::int32_t> logit_rows;  ///< indices into the R rows whose logits are wanted, ascending
  /// [sequence.size()] or empty. Rows of one document see only that document; a row of document kSeesAll sees every
  /// row before it, and is seen by kSeesAll rows alone. Empty: plain causal attention.
  std::span<const std::int32_t> documents = {};
  PassObserver* observer = nullptr;

  static constexpr std::int32_t kSeesAll = -1;
};

/// cos and sin by position, as Hugging Face computes them: fp32 angle = fp32 position * fp32 frequency.
/// cos, sin: [num_positions][D/2] row-major.
struct RotaryTable {
  std::vector<float> inverse_frequencies;  ///< [D/2]
  std::vector<float> cos, sin;
  int num_positions = 0;
};
[[nodiscard]] RotaryTable make_rotary_table(const RopeParameters& rope, int head_dim, int num_positions);

/// One sequence's share of a batch.
struct SequencePass {
  Pass pass;
  Sequence* sequence = nullptr;  ///< not null; no two of a batch are the same
};

/// What comes after a pass.
struct NextToken {
  TokenId token = 0;
  std::string error;  ///< why there is none; empty: there is
};

/// A model that somebody has loaded. One call at a time.
class Model {
 public:
  virtual ~Model() = default;
  [[nodiscard]] virtual const ModelConfig& config() const = 0;
  [[nodiscard]] virtual const RotaryTable& rotary() const = 0;

  /// Runs the passes; returns, for each, logits [logit_rows.size()][V]. Throws Error, before anything is computed, for
  /// rows out of range or not ascending, token ids outside the vocabulary, positions beyond the rotary table, and a
  /// cache that was made for another model.
  virtual std::vector<std::vector<float>> forward(std::span<const SequencePass> passes) = 0;

  /// The same, and for each pass with a sampler, which has one logit row, the token that it chooses: what
  /// Sampler::next() would, or one drawn from the same distribution. samplers: [passes.size()], null for passes without
  /// logit rows. A row that no token can be chosen from spoils no other's.
  virtual std::vector<NextToken> next_tokens(std::span<const SequencePass> passes, std::span<Sampler* const> samplers);

  /// A batch of one.
  std::vector<float> forward(const Pass& pass, Sequence& sequence);
  /// A batch of one; throws Error when no token can be chosen.
  TokenId next_token(const Pass& pass, Sequence& sequence, Sampler& sampler);
};

}  // namespace mini_engine
