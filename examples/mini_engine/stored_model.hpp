// What the two containers have in common once they are parsed: a configuration, a tokenizer and tensors by name.
#pragma once

#include <array>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "model_file.hpp"
#include "tensor_table.hpp"
#include "tokenizer.hpp"

namespace mini_engine {

/// How a container names the tensors of the llama architecture.
struct TensorNaming {
  std::string_view layer_prefix;  ///< comes before the number of a layer, `suffixes` behind it
  std::string_view token_embedding, output_norm, output_head;  ///< whole names
  std::array<std::string_view, 9> suffixes;                    ///< from TensorRole::kAttentionNorm on
  /// Names of tensors that a model may hold although nothing reads their bytes as weights; one that starts with '*'
  /// stands for any name with that ending.
  std::span<const std::string_view> ignored;
};

struct RoleShape {
  std::int64_t rows = 0;  ///< 1 for a vector
  std::int64_t columns = 0;
};
/// The shape that a configuration calls for.
[[nodiscard]] RoleShape expected_shape(const ModelConfig& config, TensorRole role);

/// A ModelFile over parsed parts. Whoever derives from it owns the mapped bytes.
class StoredModel : public ModelFile {
 public:
  [[nodiscard]] const ModelConfig& config() const final { return config_; }
  [[nodiscard]] TensorView tensor(TensorRole role, int layer) const final;
  [[nodiscard]] const TokenizerData& tokenizer() const final { return tokenizer_; }
  [[nodiscard]] std::array<std::byte, 32> fingerprint() const final;

 protected:
  struct Parts {
    ModelConfig config;
    TokenizerData tokenizer;
    TensorTable tensors;
    std::string source;                        ///< for messages
    std::optional<std::uint64_t> tensors_end;  ///< where in `source` the list of tensors ends, if it has one
  };
  /// Throws Error when a tensor that the configuration calls for is missing or has another shape, when there is one
  /// that this engine does not know, and so would ignore, or when tokenizer and configuration disagree.
  StoredModel(const TensorNaming& naming, Parts parts);

 private:
  [[nodiscard]] std::string name_of(TensorRole role, int layer) const;
  void check_tensors() const;

  const TensorNaming& naming_;
  ModelConfig config_;
  TokenizerData tokenizer_;
  TensorTable tensors_;
  std::string source_;
  std::optional<std::uint64_t> tensors_end_;
  mutable std::once_flag fingerprint_once_;
  mutable std::array<std::byte, 32> fingerprint_{};
};

}  // namespace mini_engine
