// Ends a stream of text before the first of some strings, whatever pieces it comes in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mini_engine::serve {

/// Not thread-safe.
class StopMatcher {
 public:
  /// stops: none empty.
  explicit StopMatcher(std::vector<std::string> stops);

  /// The text that is now known to stand before any stop; what may yet become one is held back.
  [[nodiscard]] std::string push(std::string_view piece);
  /// The end of the text: what was held back. Empty after a stop.
  [[nodiscard]] std::string finish();
  /// A stop was found; push() gives nothing more.
  [[nodiscard]] bool has_stopped() const { return has_stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool has_stopped_ = false;
};

}  // namespace mini_engine::serve
