#include "lab/data/question_set.hpp"

namespace lab {

std::size_t PassagePool::add(const std::string& text) {
  const auto [place, is_new] = index_of_.try_emplace(text, texts_.size());
  if (is_new) texts_.push_back(text);
  return place->second;
}

std::string with_title(const std::string& title, const std::string& text) {
  return title.empty() ? text : title + "\n" + text;
}

}  // namespace lab
