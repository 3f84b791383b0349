#include "lab/data/cache_models.hpp"

#include <vector>

namespace lab {

std::int64_t ChunkCache::serve(std::span<const StreamPart> parts) {
  std::int64_t found_tokens = 0;
  for (const StreamPart& part : parts) {
    const auto known = by_id_.find(part.id);
    if (known != by_id_.end()) {
      found_tokens += part.num_tokens;
      parts_.splice(parts_.begin(), parts_, known->second);
      continue;
    }
    parts_.push_front(part);
    by_id_.emplace(part.id, parts_.begin());
    num_tokens_ += part.num_tokens;
    while (capacity_tokens_ > 0 && num_tokens_ > capacity_tokens_) {
      num_tokens_ -= parts_.back().num_tokens;
      by_id_.erase(parts_.back().id);
      parts_.pop_back();
    }
  }
  return found_tokens;
}

std::int64_t PrefixCache::serve(std::span<const StreamPart> parts, std::size_t num_leading) {
  std::int64_t found_tokens = 0;
  std::int64_t parent = kRoot;
  std::vector<NodeIt> path;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto known = by_parent_and_id_.find({parent, parts[i].id});
    if (known != by_parent_and_id_.end()) {
      if (i >= num_leading) found_tokens += parts[i].num_tokens;
      path.push_back(known->second);
    } else {
      nodes_.push_front(
          {.parent = parent, .id = parts[i].id, .serial = next_serial_++, .num_tokens = parts[i].num_tokens});
      by_parent_and_id_.emplace(std::pair(parent, parts[i].id), nodes_.begin());
      num_tokens_ += parts[i].num_tokens;
      path.push_back(nodes_.begin());
    }
    parent = path.back()->serial;
  }
  for (auto node = path.rbegin(); node != path.rend(); ++node) nodes_.splice(nodes_.begin(), nodes_, *node);
  while (capacity_tokens_ > 0 && num_tokens_ > capacity_tokens_) {
    const Node& last = nodes_.back();
    num_tokens_ -= last.num_tokens;
    by_parent_and_id_.erase({last.parent, last.id});
    nodes_.pop_back();
  }
  return found_tokens;
}

}  // namespace lab
