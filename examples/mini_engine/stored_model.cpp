#include "mini_engine/stored_model.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/fingerprint.hpp"

namespace mini_engine {
namespace {

constexpr TensorRole kLayerRoles[] = {TensorRole::kAttentionNorm, TensorRole::kQuery,           TensorRole::kKey,
                                      TensorRole::kValue,         TensorRole::kAttentionOutput, TensorRole::kFfnNorm,
                                      TensorRole::kFfnGate,       TensorRole::kFfnUp,           TensorRole::kFfnDown};

bool matches(std::string_view name, std::string_view pattern) {
  return pattern.starts_with('*') ? name.ends_with(pattern.substr(1)) : name == pattern;
}

}  // namespace

RoleShape expected_shape(const ModelConfig& config, TensorRole role) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t kv = std::int64_t{config.num_kv_heads} * config.head_dim;
  switch (role) {
    case TensorRole::kTokenEmbedding:
    case TensorRole::kOutputHead:
      return {config.vocab_size, hidden};
    case TensorRole::kOutputNorm:
    case TensorRole::kAttentionNorm:
    case TensorRole::kFfnNorm:
      return {1, hidden};
    case TensorRole::kQuery:
      return {query, hidden};
    case TensorRole::kKey:
    case TensorRole::kValue:
      return {kv, hidden};
    case TensorRole::kAttentionOutput:
      return {hidden, query};
    case TensorRole::kFfnGate:
    case TensorRole::kFfnUp:
      return {config.ffn_size, hidden};
    case TensorRole::kFfnDown:
      return {hidden, config.ffn_size};
  }
  throw Error("tensor role number " + std::to_string(static_cast<int>(role)) + " does not exist");
}

StoredModel::StoredModel(const TensorNaming& naming, Parts parts)
    : naming_(naming),
      config_(std::move(parts.config)),
      tokenizer_(std::move(parts.tokenizer)),
      tensors_(std::move(parts.tensors)),
      source_(std::move(parts.source)),
      tensors_end_(parts.tensors_end) {
  check_tensors();
  if (tokenizer_.pieces.size() > static_cast<std::size_t>(config_.vocab_size)) {
    throw file_error(tokenizer_.source, "vocabulary",
                     std::to_string(tokenizer_.pieces.size()) + " tokens, but the model has embeddings for " +
                         std::to_string(config_.vocab_size));
  }
}

std::string StoredModel::name_of(TensorRole role, int layer) const {
  switch (role) {
    case TensorRole::kTokenEmbedding:
      return std::string(naming_.token_embedding);
    case TensorRole::kOutputNorm:
      return std::string(naming_.output_norm);
    case TensorRole::kOutputHead:
      return std::string(config_.tied_embeddings ? naming_.token_embedding : naming_.output_head);
    default:
      break;
  }
  if (layer < 0 || layer >= config_.num_layers) {
    throw file_error(source_, "layer " + std::to_string(layer),
                     "the model has " + std::to_string(config_.num_layers) + " layers");
  }
  const auto suffix_index = static_cast<std::size_t>(role) - static_cast<std::size_t>(TensorRole::kAttentionNorm);
  return std::string(naming_.layer_prefix) + std::to_string(layer) + std::string(naming_.suffixes.at(suffix_index));
}

TensorView StoredModel::tensor(TensorRole role, int layer) const {
  const RoleShape shape = expected_shape(config_, role);
  const std::string name = name_of(role, layer);
  const StoredTensor* stored = tensors_.find(name);
  if (stored == nullptr) {
    if (tensors_end_) throw file_error(source_, name, *tensors_end_, "tensor is missing from the list that ends here");
    throw file_error(source_, name, "tensor is in none of the files");
  }
  return view_as(*stored, shape.rows, shape.columns);
}

void StoredModel::check_tensors() const {
  std::set<std::string, std::less<>> known;
  const auto check = [&](TensorRole role, int layer) {
    static_cast<void>(tensor(role, layer));
    known.insert(name_of(role, layer));
  };
  for (const TensorRole role : {TensorRole::kTokenEmbedding, TensorRole::kOutputNorm, TensorRole::kOutputHead}) {
    check(role, 0);
  }
  // A number of layers that the file does not back ends with the first one missing.
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    for (const TensorRole role : kLayerRoles) check(role, layer);
  }
  if (config_.tied_embeddings) known.insert(std::string(naming_.output_head));
  for (const auto& [name, stored] : tensors_.by_name()) {
    const auto is_this = [&name = name](std::string_view pattern) { return matches(name, pattern); };
    if (known.contains(name) || std::any_of(naming_.ignored.begin(), naming_.ignored.end(), is_this)) continue;
    throw file_error(stored.file, name, stored.offset,
                     "tensor that a llama model of this configuration has no use for");
  }
}

std::array<std::byte, 32> StoredModel::fingerprint() const {
  std::call_once(fingerprint_once_, [this] { fingerprint_ = fingerprint_of(config_, tensors_); });
  return fingerprint_;
}

}  // namespace mini_engine
