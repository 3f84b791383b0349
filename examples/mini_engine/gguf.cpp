#include "mini_engine/gguf.hpp"

#include <utility>

#include "mini_engine/gguf_model.hpp"
#include "mini_engine/gguf_parse.hpp"
#include "mini_engine/mapped_file.hpp"

namespace mini_engine {
namespace {

constexpr std::string_view kIgnored[] = {"rope_freqs.weight"};  // gguf_config() has read it

constexpr TensorNaming kNaming = {
    .layer_prefix = "blk.",
    .token_embedding = "token_embd.weight",
    .output_norm = "output_norm.weight",
    .output_head = "output.weight",
    .suffixes = {".attn_norm.weight", ".attn_q.weight", ".attn_k.weight", ".attn_v.weight", ".attn_output.weight",
                 ".ffn_norm.weight", ".ffn_gate.weight", ".ffn_up.weight", ".ffn_down.weight"},
    .ignored = kIgnored,
};

}  // namespace

std::unique_ptr<GgufFile> GgufFile::open(const std::string& path) {
  auto mapping = std::make_unique<MappedFile>(path);
  auto file = std::make_unique<GgufFile>(mapping->bytes(), path);
  file->mapping_ = std::move(mapping);
  return file;
}

GgufFile::GgufFile(std::span<const std::byte> bytes, const std::string& name)
    : StoredModel(kNaming, [&] {
        GgufContents contents = parse_gguf(bytes, name);
        ModelConfig config = gguf_config(contents);
        TokenizerData tokenizer = gguf_tokenizer(contents);
        return Parts{std::move(config), std::move(tokenizer), TensorTable(std::move(contents.tensors)), name,
                     contents.tensors_end};
      }()) {}

GgufFile::~GgufFile() = default;

}  // namespace mini_engine
