// The ways to serve a prompt that the demo compares.
#pragma once

#include <array>

namespace rag_demo {

enum class Mode {
  kFull,         ///< compute every token
  kExactPrefix,  ///< reuse what earlier prompts began with, in blocks
  kReuseLocal,   ///< reuse chunks, keys left at positions 0, 1, ... of their chunk
  kReuseStale,   ///< reuse chunks, keys left where they stood in an earlier request
  kReanchored,   ///< reuse chunks, semantic keys turned to where they stand now
};

inline constexpr std::array<Mode, 5> kModes = {Mode::kFull, Mode::kExactPrefix, Mode::kReuseLocal, Mode::kReuseStale,
                                               Mode::kReanchored};

/// The name used in JSON and tables.
[[nodiscard]] constexpr const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::kFull:
      return "full";
    case Mode::kExactPrefix:
      return "exact_prefix";
    case Mode::kReuseLocal:
      return "reuse_local";
    case Mode::kReuseStale:
      return "reuse_stale";
    case Mode::kReanchored:
      return "reanchored";
  }
  return "unknown";
}

}  // namespace rag_demo
