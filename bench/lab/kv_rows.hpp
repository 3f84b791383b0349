// K and V of a run of tokens in fp32, and how they are taken out of the engine's passes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"
#include "pikv/geometry.hpp"

namespace lab {

/// Laid out as a plain fp32 slab, [L][2 (K, V)][T][H][D].
struct KvRows {
  KvRows(const pikv::KvGeometry& geometry, std::int64_t num_tokens_)
      : num_tokens(num_tokens_), elements(static_cast<std::size_t>(num_tokens_ * geometry.elements_per_token())) {}

  std::int64_t num_tokens;
  std::vector<float> elements;
};

/// Computes `tokens` at rows [sequence.size(), sequence.size() + tokens.size()), which it adds to the sequence.
/// first_logit: the first of the tokens whose logits are wanted; the logits of it and all behind it are returned,
/// [.][V]. captured: [tokens.size()] rows that receive keys before rotation, and values; may be null.
[[nodiscard]] std::vector<float> append_rows(mini_engine::Model& model, mini_engine::Sequence& sequence,
                                             std::span<const mini_engine::TokenId> tokens, std::size_t first_logit,
                                             KvRows* captured);

/// The same at rows that the sequence has already, whose K and V are overwritten.
[[nodiscard]] std::vector<float> compute_rows(mini_engine::Model& model, mini_engine::Sequence& sequence,
                                              std::int32_t first_row, std::span<const mini_engine::TokenId> tokens,
                                              std::size_t first_logit, KvRows* captured);

}  // namespace lab
