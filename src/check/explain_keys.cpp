#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <optional>
#include <vector>

#include "check/channel_pairs.hpp"
#include "check/row_difference.hpp"

namespace pikv {
inline namespace v0 {
namespace check {
namespace {

constexpr double kSameAngle = 0.05;   // radians: what rounding to 16 bits turns a pair by stays far below
constexpr double kSameLength = 0.02;  // relative, likewise

const char* pairing_name(Pairing pairing) { return pairing == Pairing::kHalfSplit ? "half-split" : "interleaved"; }

Pairing other(Pairing pairing) { return pairing == Pairing::kHalfSplit ? Pairing::kInterleaved : Pairing::kHalfSplit; }

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

bool matches(const KeyEvidence& evidence, const HostRows& keys) {
  return row_difference(keys, evidence.written, Side::kKey, evidence.rope.pairing, 1, evidence.bound).worst <=
         evidence.bound;
}

bool matches_with(const KeyEvidence& evidence, const RopeTableView& table, Position first) {
  if (first < 0 || first + evidence.semantic.num_tokens > table.num_positions) return false;
  return matches(evidence, turned_on_host(evidence.semantic, table, first));
}

bool keys_are_values(const KeyEvidence& evidence) {
  const HostRows& written = evidence.written;
  HostRows swapped = evidence.semantic;  // its keys, where the values were
  const auto side_size = static_cast<std::ptrdiff_t>(swapped.values.size()) / swapped.geometry.num_layers / 2;
  std::copy_n(evidence.semantic.values.begin(), side_size, swapped.values.begin() + side_size);
  return row_difference(swapped, written, Side::kValue, evidence.rope.pairing, 1, evidence.bound).worst <=
         evidence.bound;
}

std::string explain_shift(const KeyEvidence& evidence) {
  constexpr Position kFarthest = 4;
  for (Position shift = 1; shift <= kFarthest; ++shift) {
    for (const Position by : {shift, -shift}) {
      if (!matches_with(evidence, evidence.table.view(), evidence.first + by)) continue;
      return "keys match at positions " + std::to_string(shift) + (by > 0 ? " above" : " below") +
             " those that the pass was given";
    }
  }
  return {};
}

std::string explain_rotary_size(const KeyEvidence& evidence) {
  const KvGeometry& geometry = evidence.semantic.geometry;
  const auto needed = static_cast<std::int32_t>(evidence.first + evidence.semantic.num_tokens);
  for (std::int32_t size = 2; size <= geometry.head_dim; size += 2) {
    if (size == geometry.rotary_dim) continue;
    const Result<RopeTable> table = RopeTable::build(evidence.rope, size, needed);
    if (!table.ok() || !matches_with(evidence, table->view(), evidence.first)) continue;
    return "keys match with a rotary size of " + std::to_string(size) + ", the geometry says " +
           std::to_string(geometry.rotary_dim);
  }
  return {};
}

/// A pair of channels of one token, before and after.
struct PairSeen {
  double angle = 0;   // by which it was turned, in (-pi, pi]
  double length = 0;  // after / before
  double weight = 0;  // length before
};

PairSeen see(const KeyEvidence& evidence, std::int64_t token, std::int32_t pair) {
  const KvGeometry& geometry = evidence.semantic.geometry;
  const auto [i, j] = channels_of(pair, geometry.rotary_dim, evidence.rope.pairing);
  PairSeen seen;
  for (std::int32_t head = 0; head < geometry.num_kv_heads; ++head) {
    const float* const a = evidence.semantic.head(0, Side::kKey, token, head);
    const float* const b = evidence.written.head(0, Side::kKey, token, head);
    const double before = std::hypot(double{a[i]}, double{a[j]});
    if (before <= seen.weight) continue;  // the longest is the least disturbed by rounding
    const double dot = double{a[i]} * b[i] + double{a[j]} * b[j];
    const double cross = double{a[i]} * b[j] - double{a[j]} * b[i];
    seen = {std::atan2(cross, dot), std::hypot(double{b[i]}, double{b[j]}) / before, before};
  }
  return seen;
}

std::string explain_lengths(const KeyEvidence& evidence) {
  double shortest = INFINITY;
  double longest = 0;
  for (std::int64_t token = 0; token < evidence.semantic.num_tokens; ++token) {
    for (std::int32_t pair = 0; pair < evidence.semantic.geometry.rotary_dim / 2; ++pair) {
      const PairSeen seen = see(evidence, token, pair);
      if (seen.weight == 0) continue;
      shortest = std::min(shortest, seen.length);
      longest = std::max(longest, seen.length);
    }
  }
  const double magnitude = evidence.table.magnitude();
  if (longest - shortest > 2 * kSameLength * longest) {
    return "the engine changes the length of pairs, by factors of " + number(shortest) + " to " + number(longest) +
           ": keys were taken before a bias or a key norm, the pairing is another, or these are not keys";
  }
  if (std::abs(longest / magnitude - 1) <= kSameLength) return {};
  return "the engine multiplies keys by " + number((shortest + longest) / 2) + ", the table by " + number(magnitude) +
         ": an attention factor that differs";
}

double wrapped(double angle) { return std::remainder(angle, 2 * std::numbers::pi); }

/// Radians a position, from how much further later tokens are turned than the first; nothing when no one frequency
/// explains them. Steps double, so that the whole turns among them are known from the step before.
template <class AngleOf>
std::optional<double> frequency_of(std::int64_t num_tokens, const AngleOf& angle_of) {
  const double start = angle_of(0);
  double frequency = wrapped(angle_of(1) - start);
  for (std::int64_t step = 2; step < num_tokens; step *= 2) {
    const auto distance = static_cast<double>(step);
    const double off = wrapped(angle_of(step) - start - frequency * distance);
    if (std::abs(off) > 1.0) return std::nullopt;
    frequency += off / distance;
  }
  for (std::int64_t token = 1; token < num_tokens; ++token) {
    if (std::abs(wrapped(angle_of(token) - start - frequency * static_cast<double>(token))) > 4 * kSameAngle) {
      return std::nullopt;
    }
  }
  return frequency;
}

std::string explain_frequencies(const KeyEvidence& evidence) {
  const RopeTableView table = evidence.table.view();
  const std::int64_t num_tokens = evidence.semantic.num_tokens;
  if (num_tokens < 2) return {};
  double worst = 0;
  std::string text;
  for (std::int32_t pair = 0; pair < table.half_dim; ++pair) {
    const auto by_table = [&](std::int64_t token) {
      const Position position = evidence.first + static_cast<Position>(token);
      return std::atan2(table.sin(position)[pair], table.cos(position)[pair]);
    };
    const auto by_engine = [&](std::int64_t token) { return see(evidence, token, pair).angle; };
    const std::optional<double> expected = frequency_of(num_tokens, by_table);
    const std::optional<double> found = frequency_of(num_tokens, by_engine);
    if (!expected || !found) continue;
    const double apart = std::abs(*found - *expected);
    if (apart <= worst) continue;
    worst = apart;
    text = "pair " + std::to_string(pair) + " turns " + number(*found) + " radians a position, " +
           number(*found / *expected) + " times the " + number(*expected) +
           " of the RopeConfig: another base or scaling";
  }
  // Differences that the length of the chunk does not make larger than rounding are no evidence.
  if (worst * static_cast<double>(num_tokens) <= std::max(evidence.bound, 1e-6)) return {};
  return text;
}

}  // namespace

std::string explain_keys(const KeyEvidence& evidence) {
  if (matches(evidence, evidence.semantic)) {
    return "keys match without any rotation: they were taken after it, or the engine does not rotate";
  }
  if (keys_are_values(evidence)) return "what was handed out as keys is what the engine wrote as values";
  RopeTableView paired = evidence.table.view();
  paired.pairing = other(paired.pairing);
  if (matches_with(evidence, paired, evidence.first)) {
    return std::string("keys match with ") + pairing_name(paired.pairing) + " pairs, the RopeConfig says " +
           pairing_name(evidence.rope.pairing);
  }
  for (const auto& explain : {explain_shift, explain_rotary_size, explain_lengths, explain_frequencies}) {
    if (std::string text = explain(evidence); !text.empty()) return text;
  }
  return {};
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
