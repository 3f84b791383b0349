#include "mini_engine/hf_folder.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/safetensors.hpp"

namespace mini_engine {
namespace {

namespace fs = std::filesystem;

// Tables that older writers stored beside the weights; they follow from the configuration.
constexpr std::string_view kIgnored[] = {"*.self_attn.rotary_emb.inv_freq"};

constexpr TensorNaming kNaming = {
    .layer_prefix = "model.layers.",
    .token_embedding = "model.embed_tokens.weight",
    .output_norm = "model.norm.weight",
    .output_head = "lm_head.weight",
    .suffixes = {".input_layernorm.weight", ".self_attn.q_proj.weight", ".self_attn.k_proj.weight",
                 ".self_attn.v_proj.weight", ".self_attn.o_proj.weight", ".post_attention_layernorm.weight",
                 ".mlp.gate_proj.weight", ".mlp.up_proj.weight", ".mlp.down_proj.weight"},
    .ignored = kIgnored,
};

/// Names of the shards, each once, in order.
std::set<std::string> list_shards(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entries(folder, error), end; !error && entries != end; entries.increment(error)) {
    if (entries->path().extension() == ".safetensors") names.insert(entries->path().filename().string());
  }
  if (error) throw file_error(folder.string(), "cannot list", error.message());
  if (names.empty()) throw file_error(folder.string(), "*.safetensors", "the folder holds no such file");
  return names;
}

std::map<std::string, std::string> read_index(const fs::path& path) {
  constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
  const MappedFile file(path.string());
  if (file.bytes().size() > kMaxBytes) throw file_error(path.string(), "size", "more than 64 MiB");
  return parse_safetensors_index({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()},
                                 path.string());
}

/// Index and shards must name the same tensors in the same places.
void check_index(const std::map<std::string, std::string>& index, const std::string& index_path, const fs::path& folder,
                 const TensorTable& tensors) {
  for (const auto& [name, shard] : index) {
    const StoredTensor* tensor = tensors.find(name);
    if (tensor == nullptr || tensor->file != (folder / shard).string()) {
      throw file_error(index_path, name, "shard " + shard + " does not hold this tensor");
    }
  }
  for (const auto& [name, tensor] : tensors.by_name()) {
    if (!index.contains(name)) throw file_error(tensor.file, name, tensor.offset, "tensor is not in the index");
  }
}

}  // namespace

HfFolder::HfFolder(Parts parts, std::vector<MappedFile> shards)
    : StoredModel(kNaming, std::move(parts)), shards_(std::move(shards)) {}

std::unique_ptr<HfFolder> HfFolder::open(const std::string& path) {
  const fs::path folder(path);
  ModelConfig config = parse_hf_config((folder / "config.json").string());
  TokenizerData tokenizer = read_tokenizer_json((folder / "tokenizer.json").string());

  const fs::path index_path = folder / "model.safetensors.index.json";
  const bool has_index = fs::exists(index_path);
  const auto index = has_index ? read_index(index_path) : std::map<std::string, std::string>();
  std::set<std::string> names;
  for (const auto& [tensor, shard] : index) names.insert(shard);
  if (!has_index) names = list_shards(folder);

  std::vector<MappedFile> shards;
  std::vector<StoredTensor> tensors;
  for (const std::string& name : names) {
    const std::string shard_path = (folder / name).string();
    if (has_index && !fs::exists(shard_path)) {
      throw file_error(index_path.string(), "weight_map", "shard " + name + " is missing from the folder");
    }
    auto contents = parse_safetensors(shards.emplace_back(shard_path).bytes(), shard_path);
    std::move(contents.tensors.begin(), contents.tensors.end(), std::back_inserter(tensors));
  }
  TensorTable table(std::move(tensors));
  if (has_index) check_index(index, index_path.string(), folder, table);
  return std::unique_ptr<HfFolder>(
      new HfFolder({std::move(config), std::move(tokenizer), std::move(table), path, std::nullopt}, std::move(shards)));
}

}  // namespace mini_engine
