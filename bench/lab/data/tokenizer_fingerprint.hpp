// Which tokenizer token ids belong to.
#pragma once

#include <string>

#include "mini_engine/tokenizer.hpp"

namespace lab {

/// 64 bits in hex over everything that ids depend on, the same for one tokenizer whatever file it comes from. It tells
/// files that were mixed up apart; it is no protection against somebody who forges one.
[[nodiscard]] std::string tokenizer_fingerprint(const mini_engine::TokenizerData& data);

}  // namespace lab
