#include "mini_engine/serve/stop_matcher.hpp"

#include <algorithm>
#include <utility>

namespace mini_engine::serve {
namespace {

// Length of the longest end of `text` that `stop` begins with.
std::size_t overlap(std::string_view text, std::string_view stop) {
  std::size_t length = std::min(text.size(), stop.size());
  while (!text.ends_with(stop.substr(0, length))) --length;
  return length;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

std::string StopMatcher::push(std::string_view piece) {
  if (has_stopped_) return {};
  held_ += piece;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  std::size_t num_held = 0;
  if (first == std::string::npos) {
    for (const std::string& stop : stops_) num_held = std::max(num_held, overlap(held_, stop));
    first = held_.size() - num_held;
  } else {
    has_stopped_ = true;
  }
  std::string ready = held_.substr(0, first);
  held_.erase(0, has_stopped_ ? held_.size() : first);
  return ready;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace mini_engine::serve
