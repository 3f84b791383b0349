// The forward pass on the CPU, through OpenBLAS.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "config.hpp"
#include "model.hpp"
#include "types.hpp"
#include "weight_reader.hpp"

namespace mini_engine {

class ModelFile;

struct ModelOptions {
  Precision weights = Precision::kFloat32;
  int num_threads = 0;         ///< 0: all cores
  LoadProgress progress = {};  ///< of reading a model's file; may be empty
};

/// Weights and scratch of one model.
class CpuModel final : public Model {
 public:
  /// Reads and decodes all weights. Throws Error as open_model() does.
  CpuModel(const ModelFile& file, const ModelOptions& options);
  /// A model of random weights (tests); deterministic in `seed`.
  static CpuModel random(const ModelConfig& config, std::uint64_t seed, const ModelOptions& options);
  ~CpuModel() override;
  CpuModel(CpuModel&&) noexcept;

  [[nodiscard]] const ModelConfig& config() const override;
  [[nodiscard]] const RotaryTable& rotary() const override;

  /// Pass by pass. OpenBLAS is held to one thread in the whole process while it runs: the model's own threads call it
  /// side by side.
  std::vector<std::vector<float>> forward(std::span<const SequencePass> passes) override;
  using Model::forward;

 private:
  struct Impl;
  explicit CpuModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine
