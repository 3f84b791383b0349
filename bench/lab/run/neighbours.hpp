// Which passages of a set resemble each other: what a chunk is encoded behind when it is to know its likely company.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "lab/data/cases.hpp"

namespace lab {

/// For each passage of the cases, by id, the passages that BM25 over token ids finds nearest, best first.
class Neighbours {
 public:
  /// cases must outlive it.
  Neighbours(const std::vector<Case>& cases, std::size_t num_neighbours);

  /// Their tokens. Requires: an id of the cases.
  [[nodiscard]] std::vector<const std::vector<mini_engine::TokenId>*> of(const std::string& id) const;

 private:
  std::vector<const CasePassage*> passages_;  // the distinct ones
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<std::vector<std::size_t>> nearest_;
};

}  // namespace lab
