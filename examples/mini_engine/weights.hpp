// The weights of a model, decoded and laid out for the forward pass.
#pragma once

#include <cstdint>
#include <vector>

#include "config.hpp"
#include "matmul.hpp"
#include "thread_pool.hpp"
#include "types.hpp"
#include "weight_reader.hpp"

namespace mini_engine {

/// Matrices in one precision, norms in fp32. What is multiplied by the same input is stacked into one matrix, and
/// query and key rows are always in half-split order. Immutable once made.
class Weights {
 public:
  struct Layer {
    std::vector<float> attention_norm;  ///< [E]
    Matrix query_key_value;             ///< [Q*D + H*D + H*D][E]
    Matrix attention_output;            ///< [E][Q*D]
    std::vector<float> ffn_norm;        ///< [E]
    Matrix gate_up;                     ///< [F + F][E]
    Matrix down;                        ///< [E][F]
  };

  /// Decodes every tensor on the pool's threads. Throws Error as ModelFile::tensor() does, and when a tensor's shape
  /// is not what the configuration calls for.
  static Weights load(const ModelFile& file, Precision precision, ThreadPool& pool, const LoadProgress& progress = {});
  /// Random weights, the same for a seed whatever the number of threads, scaled like a trained model's: activations
  /// and attention scores of order one, logits within about ten.
  static Weights random(const ModelConfig& config, std::uint64_t seed, Precision precision, ThreadPool& pool);

  [[nodiscard]] const Layer& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  [[nodiscard]] const Matrix& embedding() const { return embedding_; }                  ///< [V][E]
  [[nodiscard]] const std::vector<float>& output_norm() const { return output_norm_; }  ///< [E]
  /// [V][E]; the embedding itself when the model ties the two.
  [[nodiscard]] const Matrix& output_head() const { return is_tied_ ? embedding_ : output_head_; }

 private:
  Weights(const ModelConfig& config, Precision precision);
  template <typename Source>
  void fill_from(const ModelConfig& config, const Source& source);

  std::vector<Layer> layers_;
  Matrix embedding_;
  std::vector<float> output_norm_;
  Matrix output_head_;
  bool is_tied_;
};

}  // namespace mini_engine
