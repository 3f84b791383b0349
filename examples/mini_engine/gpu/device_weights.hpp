// The weights of a model in device memory.
#pragma once

#include <cstdint>
#include <vector>

#include "device.hpp"
#include "linear.hpp"
#include "mini_engine/config.hpp"
#include "mini_engine/types.hpp"
#include "mini_engine/weight_reader.hpp"

namespace mini_engine {
class ModelFile;
class ThreadPool;
class Weights;
}  // namespace mini_engine

namespace mini_engine::gpu {

/// Matrices in one precision, norms in fp32, stacked as those of Weights. Immutable once made.
class DeviceWeights {
 public:
  struct Layer {
    const float* attention_norm;    ///< [E]
    DeviceMatrix query_key_value;   ///< [Q*D + H*D + H*D][E]
    DeviceMatrix attention_output;  ///< [E][Q*D]
    const float* ffn_norm;          ///< [E]
    DeviceMatrix gate_up;           ///< [F + F][E]
    DeviceMatrix down;              ///< [E][F]
  };

  /// Reads a model's weights on the pool's threads. Throws Error as ModelFile::tensor() does, and for a tensor whose
  /// shape is not what the configuration calls for. `progress` may be empty.
  static DeviceWeights load(const ModelFile& file, Precision precision, ThreadPool& pool, const LoadProgress& progress);
  /// A copy of `weights`, whose precision must be `precision`.
  static DeviceWeights upload(const ModelConfig& config, const Weights& weights, Precision precision);
  /// Random weights made on the device, deterministic in `seed`: a model's shapes and timings without its files.
  static DeviceWeights random(const ModelConfig& config, std::uint64_t seed, Precision precision);

  [[nodiscard]] Precision precision() const { return precision_; }
  [[nodiscard]] const Layer& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  [[nodiscard]] const DeviceMatrix& embedding() const { return embedding_; }  ///< [V][E]
  [[nodiscard]] const float* output_norm() const { return output_norm_; }     ///< [E]
  [[nodiscard]] const DeviceMatrix& output_head() const { return output_head_; }
  [[nodiscard]] std::size_t size_bytes() const { return memory_.size_bytes(); }

 private:
  DeviceWeights(const ModelConfig& config, Precision precision);

  Precision precision_;
  DeviceBuffer memory_;  // everything, each part on a multiple of 256 bytes
  std::vector<Layer> layers_;
  DeviceMatrix embedding_;
  const float* output_norm_ = nullptr;
  DeviceMatrix output_head_;
};

/// Queues: out[i] = uniform in [-scale, scale), by `seed` and i.
template <class T>
void fill_random(T* out, std::int64_t count, float scale, std::uint64_t seed, cudaStream_t stream);
/// Queues: out[i] = value.
void fill(float* out, std::int64_t count, float value, cudaStream_t stream);

}  // namespace mini_engine::gpu
