// The places of the map of when reuse holds: for each a prompt made out of a case, and the arm that serves it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/arm_spec.hpp"
#include "lab/run/neighbours.hpp"
#include "lab/run/result.hpp"

namespace lab {

struct MapCell {
  MapPlace place;
  Case prompt;  ///< its one gold passage is what the place says something about
  ArmSpec arm;
  ArmSpec::Kind reference = ArmSpec::Kind::kFull;  ///< as CaseRunner::begin() takes it
};

/// Makes places, always the same ones of the same file and seed.
class MapCells {
 public:
  /// budget_policy: of pikv::make_repair_policy(), by a fraction of the rows. file must outlive it.
  MapCells(const CaseFile& file, std::string budget_policy, std::uint64_t seed);

  [[nodiscard]] static const std::vector<std::string>& axes();
  /// Of one case. Requires: an axis of axes(). Throws mini_engine::Error for a policy that there is not.
  [[nodiscard]] std::vector<MapCell> make(const std::string& axis, std::size_t case_index) const;

 private:
  using Tokens = std::vector<mini_engine::TokenId>;

  [[nodiscard]] std::vector<MapCell> shift(std::size_t index) const;
  [[nodiscard]] std::vector<MapCell> neighbours(std::size_t index) const;
  [[nodiscard]] std::vector<MapCell> neighbour_kind(std::size_t index) const;
  [[nodiscard]] std::vector<MapCell> order(std::size_t index) const;
  [[nodiscard]] std::vector<MapCell> distance(std::size_t index) const;
  [[nodiscard]] std::vector<MapCell> format(std::size_t index) const;
  [[nodiscard]] std::vector<MapCell> budget(std::size_t index) const;

  /// A prompt of these passages in this order, of which the gold_place-th is gold.
  [[nodiscard]] Case prompt(std::size_t index, const std::vector<Tokens>& passages, std::size_t gold_place) const;
  /// So many passages of other cases, then the gold one.
  [[nodiscard]] Case behind_others(std::size_t index, std::size_t num_others) const;
  /// The passage that a place is about: the first gold one as served, or the last where none is marked.
  [[nodiscard]] std::size_t gold_of(std::size_t index) const;
  [[nodiscard]] const Tokens& gold_tokens(std::size_t index) const;
  /// Distinct passages of the file other than the case's own, in an order drawn for the case; fewer where the file has
  /// fewer.
  [[nodiscard]] std::vector<Tokens> others(std::size_t index, std::size_t count) const;
  /// Exactly so many tokens of them, from their beginning again where the file has fewer.
  [[nodiscard]] Tokens other_tokens(std::size_t index, std::size_t count) const;
  /// Exactly so many tokens of running text up to the end of the gold passage; empty where the file has fewer.
  [[nodiscard]] Tokens text_before(std::size_t index, std::size_t count) const;

  const CaseFile& file_;
  std::string budget_policy_;
  std::uint64_t seed_;
  Neighbours nearest_;
};

}  // namespace lab
