#include "lab/data/hit_rates.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "rag_bench/made_up.hpp"
#include "rag_demo/shuffle.hpp"

namespace lab {
namespace {

/// Tokens found, of tokens looked up.
struct Count {
  std::int64_t found = 0, all = 0;

  [[nodiscard]] double rate() const { return all == 0 ? 0.0 : static_cast<double>(found) / static_cast<double>(all); }
};

std::vector<StreamPart> sorted(std::vector<StreamPart> parts) {
  std::ranges::sort(parts, {}, &StreamPart::id);
  return parts;
}

std::vector<StreamPart> shuffled(const std::vector<StreamPart>& parts, std::uint64_t seed, std::size_t request) {
  std::vector<std::size_t> order(parts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937_64 random = rag_bench::generator(seed, 0, request);
  rag_demo::shuffle(order, random);
  std::vector<StreamPart> result;
  for (const std::size_t index : order) result.push_back(parts[index]);
  return result;
}

}  // namespace

const char* cache_name(CacheKind kind) {
  switch (kind) {
    case CacheKind::kChunk:
      return "chunk";
    case CacheKind::kPrefixRetrieved:
      return "prefix-retrieved";
    case CacheKind::kPrefixSorted:
      return "prefix-sorted";
    case CacheKind::kPrefixShuffled:
      return "prefix-shuffled";
    case CacheKind::kPrefixServed:
      return "prefix-served";
  }
  return "";
}

HitRates replay(const PassageStream& stream, CacheKind kind, std::int64_t capacity_tokens, std::uint64_t seed) {
  ChunkCache chunks(capacity_tokens);
  PrefixCache prefixes(capacity_tokens);
  const auto serve = [&](const StreamRequest& request, std::size_t index) {
    switch (kind) {
      case CacheKind::kChunk:
        return chunks.serve(request.passages);
      case CacheKind::kPrefixRetrieved:
        return prefixes.serve(request.passages, 0);
      case CacheKind::kPrefixSorted:
        return prefixes.serve(sorted(request.passages), 0);
      case CacheKind::kPrefixShuffled:
        return prefixes.serve(shuffled(request.passages, seed, index), 0);
      case CacheKind::kPrefixServed:
        return prefixes.serve(request.served, request.num_leading);
    }
    return std::int64_t{0};
  };

  Count total;
  std::array<Count, 10> tenths;
  for (std::size_t i = 0; i < stream.requests.size(); ++i) {
    const StreamRequest& request = stream.requests[i];
    Count& tenth = tenths[i * tenths.size() / stream.requests.size()];
    const std::int64_t found = serve(request, i);
    for (Count* count : {&total, &tenth}) {
      count->found += found;
      for (const StreamPart& part : request.passages) count->all += part.num_tokens;
    }
  }
  HitRates rates{.hit_rate = total.rate(), .tenths = {}};
  std::ranges::transform(tenths, rates.tenths.begin(), &Count::rate);
  return rates;
}

}  // namespace lab
