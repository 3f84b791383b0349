// Finds special tokens written out in text.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "types.hpp"

namespace mini_engine {

/// The literals of a model's special tokens. Immutable once filled; const members may be called from several threads.
class SpecialTokenSet {
 public:
  /// `literal` must not be empty and must outlive the set. Returns false, adding nothing, when it is there already.
  [[nodiscard]] bool add(std::string_view literal, TokenId id);

  [[nodiscard]] std::optional<TokenId> id_of(std::string_view literal) const;

  struct Match {
    std::size_t begin, end;
    TokenId id;
  };
  /// The first literal in `text` at or after `from`; the longest of those that begin there.
  [[nodiscard]] std::optional<Match> find(std::string_view text, std::size_t from) const;

 private:
  std::unordered_map<std::string_view, TokenId> ids_;
  std::vector<std::size_t> lengths_;       ///< every length that occurs, longest first
  std::array<bool, 256> is_first_byte_{};  ///< of some literal
};

}  // namespace mini_engine
