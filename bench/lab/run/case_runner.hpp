// One case in one arm, held against full recomputation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "lab/data/cases.hpp"
#include "lab/run/arm_spec.hpp"
#include "lab/run/result.hpp"
#include "mini_engine/engine/engine.hpp"

namespace lab {

struct CaseRunnerOptions {
  std::size_t num_forced = 16;      ///< tokens of the full recomputation's answer over which predictions are compared
  bool generates = false;           ///< also each arm's own answer, of at most as many tokens
  bool measures_mechanism = false;  ///< errors of K and V and similarity of attention, which take longer than serving
  /// Errors of K and V of gold passages alone, instead of those of all.
  bool measures_gold_alone = false;
  bool measures_time = true;  ///< to the first token; false where others compute at the same time
  int num_threads = 0;        ///< that measure on the CPU; 0: all cores
  std::int64_t store_bytes = std::int64_t{2} << 30;  ///< of each store of chunks
  std::size_t num_neighbours = 4;
};

/// One thread at a time. All arguments must outlive it.
class CaseRunner {
 public:
  CaseRunner(mini_engine::Engine& engine, const std::array<std::byte, 32>& fingerprint, const CaseFile& file,
             const CaseRunnerOptions& options);
  ~CaseRunner();

  /// Computes the case in full, which the arms are compared with from now on; or, with kBlockMask, each passage seeing
  /// itself alone. Requires: a case no longer than the longest of the file; its passages are the file's where an arm
  /// encodes behind neighbours.
  void begin(const Case& one, ArmSpec::Kind reference = ArmSpec::Kind::kFull);
  /// Requires: begin().
  [[nodiscard]] ArmResult run(const ArmSpec& arm);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lab
