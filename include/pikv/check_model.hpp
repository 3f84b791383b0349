// Proves on an integrator's own engine and model, in a few short passes, that reuse is what pikv says it is: keys are
// turned as the engine turns them, position is free, and composed chunks equal a block-diagonal forward pass.
//
//   class MyProbe final : public pikv::ModelProbe { ... };  // five members: the engine, its cache and its forward pass
//   MyProbe probe(engine);
//   const pikv::CheckReport report = pikv::check_model(probe);
//   std::puts(pikv::to_text(report).c_str());
//   if (!report.vouched) return refuse(report.reason);
//
// Nothing is taken on trust: what the engine cannot do for a check is said, and a model that lacks an essential check
// is not vouched for. Thread-safety: one check at a time on one probe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/geometry.hpp"
#include "pikv/rope.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// What a probe says of its model, and what its engine can do beyond a plain pass.
struct ProbedModel {
  KvGeometry geometry;  ///< its dtype is the one that chunks are to be stored in
  RopeConfig rope;      ///< as it will enter the keys of chunks
  /// The engine's own table in host memory; absent: built from `rope`.
  std::optional<RopeTable> table;
  std::int32_t vocab_size = 0;
  std::int32_t max_rows = 0;  ///< of one sequence, in cache and model; the check looks at positions up to it
  /// Passes hand K and V before rotation to ProbePass::observer. False: chunks are taken out of the cache.
  bool hands_out_projections = false;
  /// Passes heed ProbePass::documents. False: the check computes one document after the other.
  bool masks_documents = false;
};

/// A new sequence. The arrays that the view names must last until the next one is begun.
struct ProbedSequence {
  KvView cache;             ///< all layers, in the space of the probe's backend; kFloat8E4M3 is refused as not exact
  std::vector<Slot> slots;  ///< the slot of each position [0, num_rows)
};

/// Is handed what a pass projects.
class ProbeObserver {
 public:
  virtual ~ProbeObserver() = default;
  /// Each layer once, between its projections and the end of the pass. rows: that one layer of semantic keys and
  /// values, slot i the i-th row of the pass, in the space of the probe's backend; good for what is done in this call
  /// or queued in it on the probe's stream.
  [[nodiscard]] virtual Status on_projected(std::int32_t layer, const ConstKvView& rows) = 0;
};

/// One forward pass over rows of the sequence that was begun last. It writes K and V of its rows into their slots.
struct ProbePass {
  std::span<const TokenId> tokens;  ///< [R], R >= 1
  /// [R] consecutive and ascending; the place in ProbedSequence::slots and the position of rotation.
  std::span<const Position> positions;
  /// Positions whose rows are in the cache already, ascending, all before the pass's own. A row of the pass attends
  /// these and the rows of the pass not after itself, and nothing else: what lies in other slots must not matter. They
  /// start at multiples of the cache's page size, and leave out whole pages only.
  std::span<const Position> context;
  /// [R], or empty. Only with an empty context, positions from 0 on, and masks_documents: rows of one document see that
  /// document alone, rows of kSeesAll see all rows before them.
  std::span<const std::int32_t> documents;
  std::span<const std::int32_t>
      logit_rows;                     ///< indices into the R rows whose logits are wanted, ascending; may be empty
  ProbeObserver* observer = nullptr;  ///< null: none. Not null only with hands_out_projections.

  static constexpr std::int32_t kSeesAll = -1;
};

/// An engine with a model, as much of it as the check needs. What a member throws (std::exception) is reported like a
/// Status that it returns.
class ModelProbe {
 public:
  virtual ~ModelProbe() = default;

  [[nodiscard]] virtual ProbedModel model() = 0;
  /// What moves K and V where the engine keeps them.
  [[nodiscard]] virtual Backend& backend() = 0;
  /// On which the passes run, so that what is queued on it comes before the next.
  [[nodiscard]] virtual StreamRef stream() = 0;
  /// Forgets the sequence before. num_rows: at most max_rows. Contents of the slots may be anything.
  [[nodiscard]] virtual Result<ProbedSequence> begin_sequence(std::int32_t num_rows) = 0;
  /// Logits in host memory, [logit_rows][vocab_size].
  [[nodiscard]] virtual Result<std::vector<float>> compute(const ProbePass& pass) = 0;
};

enum class CheckOutcome : std::uint8_t { kPassed = 0, kFailed = 1, kNotChecked = 2 };
[[nodiscard]] PIKV_API const char* check_outcome_name(CheckOutcome outcome) noexcept;

/// One statement about the model, and what became of it.
struct ModelCheck {
  std::string name;
  std::string proves;              ///< the statement
  std::optional<double> measured;  ///< error found; for the control, the difference that a mistake makes
  double bound = 0;                ///< largest error allowed; for the control, the smallest difference
  CheckOutcome outcome = CheckOutcome::kNotChecked;
  std::string detail;        ///< why it failed or was not checked; else what else is to know
  bool is_essential = true;  ///< nothing is vouched for without it
};

struct CheckReport {
  std::vector<ModelCheck> checks;
  bool vouched = false;  ///< every essential check has passed
  std::string reason;    ///< of a model that is not: the first essential check that did not pass, and its detail
  double seconds = 0;
};

struct CheckOptions {
  std::int32_t chunk_tokens = 48;  ///< of each made-up chunk, rounded up to whole pages; less where max_rows demands it
  std::int32_t question_tokens = 8;
  std::uint64_t seed = 1;  ///< of the made-up tokens
};

/// Runs all checks; one that cannot run says why. Works in memory of the probe's backend and in the slots of the
/// sequences that it begins, and leaves both as garbage.
[[nodiscard]] PIKV_API CheckReport check_model(ModelProbe& probe, const CheckOptions& options = {});

/// A table for people, several lines without the last line's end.
[[nodiscard]] PIKV_API std::string to_text(const CheckReport& report);

}  // namespace v0
}  // namespace pikv
