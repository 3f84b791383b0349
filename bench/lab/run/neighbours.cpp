#include "lab/run/neighbours.hpp"

#include "rag_demo/bm25.hpp"

namespace lab {

Neighbours::Neighbours(const std::vector<Case>& cases, std::size_t num_neighbours) {
  std::vector<std::string> texts;
  for (const Case& one : cases) {
    for (const CasePassage& passage : one.passages) {
      if (!index_.emplace(passage.id, passages_.size()).second) continue;
      passages_.push_back(&passage);
      std::string& text = texts.emplace_back();
      for (const mini_engine::TokenId token : passage.tokens) text += std::to_string(token) + " ";
    }
  }
  const rag_demo::Bm25Index index(texts);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::vector<std::size_t>& nearest = nearest_.emplace_back();
    for (const rag_demo::Bm25Hit& hit : index.search(texts[i], num_neighbours + 1)) {
      if (hit.document_index != i && nearest.size() < num_neighbours) nearest.push_back(hit.document_index);
    }
  }
}

std::vector<const std::vector<mini_engine::TokenId>*> Neighbours::of(const std::string& id) const {
  std::vector<const std::vector<mini_engine::TokenId>*> tokens;
  for (const std::size_t neighbour : nearest_[index_.at(id)]) tokens.push_back(&passages_[neighbour]->tokens);
  return tokens;
}

}  // namespace lab
