// Questions over passages, whatever data set they come from.
#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

namespace lab {

/// Distinct passages in the order of their first appearance.
class PassagePool {
 public:
  /// The index of this text, which is appended when it is new.
  std::size_t add(const std::string& text);
  [[nodiscard]] const std::vector<std::string>& texts() const { return texts_; }

 private:
  std::vector<std::string> texts_;
  std::unordered_map<std::string, std::size_t> index_of_;
};

/// A passage as a prompt shows it: its title, if any, on a line of its own.
[[nodiscard]] std::string with_title(const std::string& title, const std::string& text);

struct SourceQuestion {
  std::string id;
  std::string text;
  std::vector<std::string> answers;  ///< what counts as right; never empty
  std::vector<std::size_t> gold;     ///< passages that hold the answer, as far as the data set says
  std::vector<std::size_t> given;    ///< the passages that come with the question; empty: they are to be retrieved
};

struct QuestionSet {
  PassagePool pool;
  std::vector<SourceQuestion> questions;  ///< in the order of the file
};

}  // namespace lab
