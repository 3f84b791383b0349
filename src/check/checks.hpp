// The single checks of check_model(), in the order in which they run.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "check/probe_session.hpp"
#include "check/row_difference.hpp"

namespace pikv {
inline namespace v0 {
namespace check {

/// Made-up chunks and a question, the session they run in, and what earlier checks leave for later ones.
class Checks {
 public:
  using Member = Status (Checks::*)(ModelCheck&);
  struct Entry {
    const char* name;
    const char* proves;
    bool is_essential;
    Member member;
  };
  /// All, in order.
  [[nodiscard]] static std::span<const Entry> all();

  Checks(ModelProbe& probe, const CheckOptions& options) : probe_(probe), options_(options) {}

  /// Members set measured, bound, outcome and detail. Errors: why it failed, or for kUnsupported why it cannot run.
  [[nodiscard]] Status probe(ModelCheck& check);
  [[nodiscard]] Status frequencies(ModelCheck& check);
  [[nodiscard]] Status cache_type(ModelCheck& check);
  [[nodiscard]] Status keys(ModelCheck& check);
  [[nodiscard]] Status capture(ModelCheck& check);
  [[nodiscard]] Status round_trip(ModelCheck& check);
  [[nodiscard]] Status free_position(ModelCheck& check);
  [[nodiscard]] Status placed(ModelCheck& check);
  [[nodiscard]] Status block_diagonal(ModelCheck& check);
  [[nodiscard]] Status control(ModelCheck& check);

 private:
  [[nodiscard]] Status make_material();
  /// Where chunks are put alone: at the beginning, in the middle and as far out as the model lets them.
  [[nodiscard]] std::array<Position, 3> offsets() const;
  /// Relative error that one rounding may leave in a chunk or in the cache.
  [[nodiscard]] double rounding() const;
  /// Logits of one computation done in two ways may differ by so much, at most.
  [[nodiscard]] double logit_bound() const;
  /// Of the same with pikv in between, given what the engine's own arithmetic makes of it.
  [[nodiscard]] double placed_bound() const;
  /// Layer 0 of semantic keys and values without projections: each token computed alone, where nothing turns.
  [[nodiscard]] Result<HostRows> first_layer_at_position_0();
  [[nodiscard]] Result<std::vector<float>> ask(Position first, std::span<const Position> context);
  [[nodiscard]] Result<std::vector<float>> ask_behind_placed(Position first, std::span<const Position> anchors);

  ModelProbe& probe_;
  CheckOptions options_;
  std::unique_ptr<ProbeSession> session_;
  std::int64_t chunk_tokens_ = 0;
  std::vector<std::vector<TokenId>> chunks_;
  std::vector<TokenId> question_;
  std::map<Position, std::vector<float>> alone_;  // logits behind the first chunk computed at an offset
  double engine_error_ = 0;                       // of position in the engine itself
  double placed_error_ = 0;
};

}  // namespace check
}  // namespace v0
}  // namespace pikv
