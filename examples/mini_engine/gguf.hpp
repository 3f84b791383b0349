// A model in one GGUF file.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "stored_model.hpp"

namespace mini_engine {

class MappedFile;

/// See ModelFile. Query and key rows of a llama GGUF are stored for interleaved pairs.
class GgufFile final : public StoredModel {
 public:
  /// Maps the file. Throws Error for anything malformed, see parse_gguf(), gguf_config() and gguf_tokenizer().
  [[nodiscard]] static std::unique_ptr<GgufFile> open(const std::string& path);
  /// Over bytes that outlive the object; `name` stands for the file in messages.
  GgufFile(std::span<const std::byte> bytes, const std::string& name);
  ~GgufFile() override;

  [[nodiscard]] bool has_interleaved_rope_rows() const override { return true; }

 private:
  std::unique_ptr<MappedFile> mapping_;  ///< null when the bytes are somebody else's
};

}  // namespace mini_engine
