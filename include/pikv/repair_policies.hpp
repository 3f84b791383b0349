// The repair policies that come with pikv, by spec or by options. docs/repair.md says what each costs and when to use
// it.
//
//   const auto policy = pikv::make_repair_policy("blend:0.15,layer=2").value();
//   const auto same = pikv::make_blend_repair({.fraction = 0.15, .layer = 2}).value();
//
// A fraction is of the plan's approximate rows that are not repaired already, within [0, 1], rounded down, but at least
// one row unless the fraction is 0. Rows rank as in selection.hpp: of equal scores the lower row is better, and a NaN
// is worst. A plan without approximate rows gets one pass without any, and so does a fraction of 0.
//
// Every factory refuses options out of range: kInvalidArgument naming the policy and the field.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "pikv/repair.hpp"
#include "pikv/status.hpp"

namespace pikv {
inline namespace v0 {

/// By spec: a name, then what it takes: "none", "first:16", "first:16,skip=1", "blend-gradual:0.15,layers=1+2+4".
/// Options may stand in any order; RepairPolicy::name() gives the spec back without those that are at their defaults.
/// Errors: kInvalidArgument naming the spec, the field, and the form that would be right.
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_repair_policy(std::string_view spec);

/// "none": one pass without repaired rows.
[[nodiscard]] PIKV_API std::unique_ptr<RepairPolicy> make_no_repair();
/// "all": every approximate row, the upper bound of what repair can do.
[[nodiscard]] PIKV_API std::unique_ptr<RepairPolicy> make_full_repair();

/// "first:ROWS[,skip=CHUNKS]": the first tokens of each approximate chunk (LegoLink of EPIC, arXiv 2410.15332). Tokens
/// that stand in other rows of the prompt, such as those an exact prefix brought, are not made up for.
struct FirstRowsOptions {
  std::int32_t num_rows = 16;  ///< of each chunk, at least 1
  std::int32_t skip = 0;       ///< approximate chunks at the prompt's front to leave alone
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_first_rows_repair(const FirstRowsOptions& options);

/// "ends:ROWS": the first and the last tokens of each approximate chunk (the seams of HYPIC).
struct EndRowsOptions {
  std::int32_t num_rows = 8;  ///< at either end of each chunk, at least 1
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_end_rows_repair(const EndRowsOptions& options);

/// What a deviation is measured of: in a spec v, k and kv.
enum class DeviationOf : std::uint8_t { kValues, kKeys, kKeysAndValues };

/// "blend:FRACTION[,layer=LAYER][,signal=v|k|kv]": all approximate rows up to the check layer, where those that deviate
/// most from the cached ones go on (CacheBlend, arXiv 2405.16444).
struct BlendOptions {
  double fraction = 0.15;
  std::int32_t layer = 1;  ///< at least 1: what layer 0 holds depends on the token alone
  DeviationOf signal = DeviationOf::kValues;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_blend_repair(const BlendOptions& options);

/// "blend-gradual:FRACTION[,layers=A+B+...][,signal=v|k|kv]": the same with a check at each of several layers, which
/// selects among the survivors of the one before. The i-th of n checks keeps FRACTION^(i/n) of all approximate rows
/// (CacheBlend's gradual filter).
struct GradualBlendOptions {
  double fraction = 0.15;                     ///< of the rows that go on beyond the last check
  std::vector<std::int32_t> layers{1, 2, 3};  ///< ascending, the first at least 1
  DeviationOf signal = DeviationOf::kValues;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_gradual_blend_repair(
    const GradualBlendOptions& options);

/// "attention:FRACTION": the question alone, then the rows that it attends to most in the last layer (FusionRAG).
struct AttentionRepairOptions {
  double fraction = 0.15;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_attention_repair(
    const AttentionRepairOptions& options);

/// "prophet:FRACTION": the question alone, then the rows that it attends to most on average over all layers
/// (ProphetKV).
struct ProphetOptions {
  double fraction = 0.2;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_prophet_repair(const ProphetOptions& options);

/// "attended-deviation:FRACTION[,layer=LAYER][,signal=v|k|kv]": the question alone, then as blend, with each row's
/// deviation multiplied by the attention that the question pays to it on average over all layers (KVShare, A3).
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_attended_deviation_repair(
    const BlendOptions& options);

/// "focus:FRACTION[,stop=DEPTH][,mass=SHARE]": the question alone; then of each chunk the fraction of its rows that the
/// question attends to most, and from a depth on only those of focused chunks (Cache-Craft's early stop, arXiv
/// 2502.15734). Chunks are focused in the order of their rows' mean attention until they hold the share of all
/// attention to approximate rows. The fraction is of each chunk's approximate rows.
struct FocusOptions {
  double fraction = 0.15;
  double stop = 0.5;  ///< how deep, as a fraction of the layers: rows of other chunks are computed above it alone
  double mass = 0.8;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_focus_repair(const FocusOptions& options);

/// "budget:TOLERANCE[,unit=kl|f1][,most=FRACTION][,start=FRACTION][,keys=GAIN][,values=GAIN]": as few rows as keep the
/// answer within a tolerance. The question alone first; then the rows whose error it would see most, `start` of all,
/// and about as many again as there are by then in each further pass, until the error that is left is within the
/// tolerance or `most` of the rows are computed. A row's error is expected to be what the question and its last row pay
/// to it over the square root of its place in its chunk, whose first tokens miss most. In every pass all other rows are
/// moved by what the repaired ones that they resemble have drifted (DriftCorrector), which does more for the answer
/// than as many rows again. Attention is measured anew in each pass, on the repaired prompt.
///
/// The error left is taken for what the last pass changed: the Kullback-Leibler divergence of the next token's
/// distribution behind it from the one before it, in nats. A tolerance in F1 is the probability that an answer's token
/// changes, at most sqrt(KL / 2) (Pinsker's inequality). docs/reuse-map.md shows how often the estimate holds. With a
/// tolerance of 0 `most` of the rows are computed in one pass behind the question's.
struct ErrorBudgetOptions {
  enum class Unit : std::uint8_t { kKl, kF1 };
  double tolerance = 0.02;  ///< finite, at least 0
  Unit unit = Unit::kKl;
  double most = 0.1;
  double start = 0.05;  ///< within (0, 1]
  double key_gain = 1;  ///< of the drift that other rows' keys are moved by, within [0, 1]; 0: they stay
  double value_gain = 1;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_error_budget_repair(
    const ErrorBudgetOptions& options);

/// "random:FRACTION[,seed=SEED]": rows by chance, the same for the same seed and plan. A control for measurements.
struct RandomRowsOptions {
  double fraction = 0.15;
  std::uint64_t seed = 0;
};
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_random_rows_repair(const RandomRowsOptions& options);

}  // namespace v0
}  // namespace pikv
