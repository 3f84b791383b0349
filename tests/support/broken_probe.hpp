// The example engine's probe with one thing about it wrong.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "mini_engine/check_probe.hpp"

namespace test_support {

enum class Fault {
  kNone,
  kWrongPairing,
  kWrongBase,
  kScalingLeftOut,
  kWrongRotarySize,
  kOffByOne,             ///< the engine works one position further on than it was told
  kCapturedAfterTurn,    ///< keys are handed out rotated
  kCapturedBeforeNorm,   ///< the engine scales each channel of a key after it was handed out
  kUniformlyScaledKeys,  ///< the engine scales all keys
  kSwapped,              ///< K handed out as V, and V as K
  kWrongValues,
  kCacheIgnored,        ///< rows of the context are not attended
  kForeignRowsIgnored,  ///< of the context, rows that the engine has not computed itself
  kDocumentsIgnored,    ///< no document mask, though there is said to be one
  kWrongMagnitude,      ///< the table says that it carries a factor, and does not
  kHolesSeen,           ///< rows that are no context are attended
  kSlotsMixedUp,        ///< the slots named are not those in use
  kSlotOutside,         ///< a slot that the cache has not
  kNanLogits,
  kTooFewLogits,
  kThrows,
  kReturnsError,
  kNoContext,    ///< the engine cannot leave rows out, and says so
  kDynamicNtk,   ///< the configuration has frequencies that depend on the length
  kFloat8Pages,  ///< the pages are of a lossy type
  kTooFewRows,
};

struct ProbeAbilities {
  bool hands_out_projections = true;
  bool masks_documents = true;
};

class BrokenProbe final : public mini_engine::CheckProbe {
 public:
  BrokenProbe(mini_engine::Model& model, mini_engine::PagedCache& cache, const mini_engine::CheckProbeOptions& options,
              Fault fault, ProbeAbilities abilities = {});

  [[nodiscard]] pikv::ProbedModel model() override;
  [[nodiscard]] pikv::Result<pikv::ProbedSequence> begin_sequence(std::int32_t num_rows) override;
  [[nodiscard]] pikv::Result<std::vector<float>> compute(const pikv::ProbePass& pass) override;

 private:
  Fault fault_;
  ProbeAbilities abilities_;
  std::set<pikv::Position> computed_;  // of the sequence
};

}  // namespace test_support
