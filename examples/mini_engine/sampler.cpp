#include "mini_engine/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

TokenId index_of_greatest(std::span<const float> logits) {
  if (logits.empty()) throw Error("sampler: no logits");
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      throw Error("sampler: logit of token " + std::to_string(i) + " is " + std::to_string(logits[i]));
    }
    if (logits[i] > logits[best]) best = i;
  }
  if (std::isinf(logits[best])) throw Error("sampler: every logit is minus infinity");
  return static_cast<TokenId>(best);
}

struct Candidate {
  double weight;
  TokenId id;
};

/// Moves the fewest most probable candidates whose weights sum to at least `wanted` to the front, most probable first,
/// and drops the rest. A heap spares the full sort: a few dozen of 100,000 candidates usually suffice.
void keep_nucleus(std::vector<Candidate>& candidates, double wanted) {
  const auto less_probable = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.id > b.id;
  };
  std::make_heap(candidates.begin(), candidates.end(), less_probable);
  std::vector<Candidate> kept;
  double sum = 0.0;
  do {
    std::pop_heap(candidates.begin(), candidates.end(), less_probable);
    kept.push_back(candidates.back());
    candidates.pop_back();
    sum += kept.back().weight;
  } while (sum < wanted && !candidates.empty());
  candidates = std::move(kept);
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  if (!(options.temperature >= 0.0F) || std::isinf(options.temperature)) {
    throw Error("sampler: temperature " + std::to_string(options.temperature) + " is not a number from 0 up");
  }
  if (!(options.top_p > 0.0F && options.top_p <= 1.0F)) {
    throw Error("sampler: top_p " + std::to_string(options.top_p) + " is not in (0, 1]");
  }
}

// 53 random bits. The standard distributions may differ from one standard library to another.
double Sampler::draw_fraction() { return static_cast<double>(random_() >> 11U) * 0x1p-53; }

TokenId Sampler::next(std::span<const float> logits) {
  const TokenId greatest = index_of_greatest(logits);
  if (options_.temperature == 0.0F) return greatest;

  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double distance = static_cast<double>(logits[i]) - static_cast<double>(logits[greatest]);
    const double weight = std::exp(distance / static_cast<double>(options_.temperature));
    if (weight == 0.0) continue;
    candidates.push_back({weight, static_cast<TokenId>(i)});
    sum += weight;
  }
  if (options_.top_p < 1.0F) {
    keep_nucleus(candidates, sum * static_cast<double>(options_.top_p));
    sum = 0.0;
    for (const Candidate& candidate : candidates) sum += candidate.weight;
  }

  double rest = sum * draw_fraction();
  for (const Candidate& candidate : candidates) {
    if (rest < candidate.weight) return candidate.id;
    rest -= candidate.weight;
  }
  return candidates.back().id;  // rounding used up the last weight
}

}  // namespace mini_engine
