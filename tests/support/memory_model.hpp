// A model file that lives in memory: random fp32 weights behind the interface that files have.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "mini_engine/model_file.hpp"

namespace test_support {

/// How query and key rows are stored: pairs (i, i + D/2) as in a Hugging Face folder, or (2i, 2i+1) as in GGUF.
enum class RopeRows { kHalfSplit, kInterleaved };

/// Weights are uniform noise, large enough that attention is far from flat. Immutable once made.
class MemoryModel : public mini_engine::ModelFile {
 public:
  MemoryModel(mini_engine::ModelConfig config, unsigned seed, RopeRows rope_rows = RopeRows::kHalfSplit);

  [[nodiscard]] const mini_engine::ModelConfig& config() const override { return config_; }
  [[nodiscard]] mini_engine::TensorView tensor(mini_engine::TensorRole role, int layer) const override;
  [[nodiscard]] bool has_interleaved_rope_rows() const override { return rope_rows_ == RopeRows::kInterleaved; }
  /// Throws: there is none.
  [[nodiscard]] const mini_engine::TokenizerData& tokenizer() const override;
  [[nodiscard]] std::array<std::byte, 32> fingerprint() const override { return {}; }

  /// The same numbers as tensor(): [rows][columns].
  [[nodiscard]] const std::vector<float>& values(mini_engine::TensorRole role, int layer) const;
  /// Replaces the shape that tensor() reports, to test what a reader does about it.
  void misreport(mini_engine::TensorRole role, int layer, std::int64_t rows, std::int64_t columns);

 private:
  struct Tensor {
    std::int64_t rows;
    std::int64_t columns;
    std::vector<float> values;
  };
  [[nodiscard]] const Tensor& find(mini_engine::TensorRole role, int layer) const;

  mini_engine::ModelConfig config_;
  RopeRows rope_rows_;
  std::map<std::pair<mini_engine::TensorRole, int>, Tensor> tensors_;
};

}  // namespace test_support
