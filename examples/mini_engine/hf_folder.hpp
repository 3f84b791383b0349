// A model in a Hugging Face folder: `config.json`, `tokenizer.json` and one or more `*.safetensors`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mapped_file.hpp"
#include "stored_model.hpp"

namespace mini_engine {

/// See ModelFile. Rows are stored for half-split rotation.
class HfFolder final : public StoredModel {
 public:
  /// Maps the shards that `model.safetensors.index.json` names or, without that file, every `*.safetensors` directly in
  /// the folder. Throws Error for anything malformed, for tensors named twice, and for an index that names a shard or
  /// a tensor that is not there, or leaves one out.
  [[nodiscard]] static std::unique_ptr<HfFolder> open(const std::string& path);

  [[nodiscard]] bool has_interleaved_rope_rows() const override { return false; }

 private:
  HfFolder(Parts parts, std::vector<MappedFile> shards);

  std::vector<MappedFile> shards_;
};

}  // namespace mini_engine
