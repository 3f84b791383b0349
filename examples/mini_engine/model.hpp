// The forward pass of a llama-architecture model over any rows of a sequence, on the CPU through OpenBLAS.
//
// A row is one token at one place of a sequence. A pass computes the rows it is given and nothing else: it writes their
// K and V into the sequence's slots and lets each attend every row of the sequence whose position is not after its own,
// whether that row was computed now, earlier, or put there by somebody else. That is all a host needs for prefill,
// decoding, prefix reuse, composed chunks and repair alike.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "config.hpp"
#include "paged_cache.hpp"
#include "types.hpp"

namespace mini_engine {

class ModelFile;
class Weights;

/// Sees a pass from inside; every member is called on the thread that runs the pass.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  /// Before layer `layer` reads the cache: rows that somebody else provides must be in place on return.
  virtual void before_layer(int layer) { (void)layer; }
  /// K and V of the rows of this pass as the projections gave them: keys before rotation, both already rounded to the
  /// cache's precision. `keys` and `values` are [R][H][D] fp32, valid during the call only.
  virtual void on_projected(int layer, std::span<const float> keys, std::span<const float> values) {
    (void)layer, (void)keys, (void)values;
  }
};

/// What one pass computes.
struct Pass {
  std::span<const TokenId> tokens;      ///< [R]
  std::span<const std::int32_t> rows;   ///< [R] rows of the sequence, strictly ascending; position of a row = its index
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

struct ModelOptions {
  Precision weights = Precision::kFloat32;
  int num_threads = 0;  ///< 0: all cores
};

/// Weights and scratch of one model. forward() is not reentrant: one pass at a time per Model.
class Model {
 public:
  /// Reads and decodes all weights. Throws Error as open_model() does.
  Model(const ModelFile& file, const ModelOptions& options);
  /// A model of random weights (tests); deterministic in `seed`.
  static Model random(const ModelConfig& config, std::uint64_t seed, const ModelOptions& options);
  ~Model();
  Model(Model&&) noexcept;

  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] const RotaryTable& rotary() const;

  /// Runs the pass; returns logits [logit_rows.size()][V]. Throws Error for rows out of range or not ascending, token
  /// ids outside the vocabulary, positions beyond the rotary table. OpenBLAS is held to one thread in the whole process
  /// while it runs: the model's own threads call it side by side.
  std::vector<float> forward(const Pass& pass, Sequence& sequence);

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine
