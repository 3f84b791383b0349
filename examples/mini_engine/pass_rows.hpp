// The rows of a pass that are still computed: all of them at first, fewer when its observer lets some go.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model.hpp"
#include "types.hpp"

namespace mini_engine {

/// Borrows what the pass does. One thread at a time.
class PassRows {
 public:
  explicit PassRows(const Pass& pass) : pass_(pass) {}
  PassRows(PassRows&&) = default;
  PassRows& operator=(PassRows&&) = default;
  // What is left lies in memory of its own, which a copy's spans would not be of.
  PassRows(const PassRows&) = delete;
  PassRows& operator=(const PassRows&) = delete;

  /// The pass as if it had been given only these rows; its spans are valid until keep().
  [[nodiscard]] const Pass& pass() const { return pass_; }
  [[nodiscard]] std::span<const std::int32_t> rows() const { return pass_.rows; }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(pass_.rows.size()); }

  /// Asks the observer, if there is one, after layer `layer`'s projections: indices into rows(); nothing: all go on.
  /// Throws Error when they are out of range, not ascending, or leave out a row whose logits are wanted.
  [[nodiscard]] std::optional<std::vector<std::int32_t>> ask_which_go_on(int layer) const;
  /// Lets go all but `chosen`, indices into rows() as ask_which_go_on() gives them.
  void keep(std::span<const std::int32_t> chosen);

 private:
  Pass pass_;
  std::vector<TokenId> tokens_;
  std::vector<std::int32_t> rows_;
  std::vector<std::int32_t> logit_rows_;
};

}  // namespace mini_engine
