#include "mini_engine/special_tokens.hpp"

#include <algorithm>
#include <functional>

namespace mini_engine {

bool SpecialTokenSet::add(std::string_view literal, TokenId id) {
  if (!ids_.emplace(literal, id).second) return false;
  is_first_byte_[static_cast<unsigned char>(literal.front())] = true;
  const auto place = std::lower_bound(lengths_.begin(), lengths_.end(), literal.size(), std::greater<>());
  if (place == lengths_.end() || *place != literal.size()) lengths_.insert(place, literal.size());
  return true;
}

std::optional<TokenId> SpecialTokenSet::id_of(std::string_view literal) const {
  const auto found = ids_.find(literal);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::optional<SpecialTokenSet::Match> SpecialTokenSet::find(std::string_view text, std::size_t from) const {
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!is_first_byte_[static_cast<unsigned char>(text[begin])]) continue;
    for (const std::size_t length : lengths_) {
      if (length > text.size() - begin) continue;
      if (const auto id = id_of(text.substr(begin, length))) return Match{begin, begin + length, *id};
    }
  }
  return std::nullopt;
}

}  // namespace mini_engine
