// Cuts text into the pieces that byte-pair merging never joins.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer.hpp"

namespace mini_engine {

/// A compiled pattern. Immutable; split() may be called from several threads.
class PreSplitter {
 public:
  /// Throws Error when PCRE2 cannot compile the pattern (it was built without Unicode support).
  explicit PreSplitter(PreSplit pattern);
  ~PreSplitter();
  PreSplitter(const PreSplitter&) = delete;
  PreSplitter& operator=(const PreSplitter&) = delete;

  /// Appends the pieces of `text`, which has to be valid UTF-8, to `pieces`. They lie end to end and cover it all; they
  /// view into `text`.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine
