// What repaired rows tell of the rows beside them.
//
// Where a prompt has something to repair, rows that resemble each other are off alike: the difference between a row's
// fresh and cached K and V, before RoPE, goes with what the row is. So the repaired rows, whose difference is known,
// are samples, and what every other row has drifted is predicted from those that it resembles: once per request by how
// much it takes over from each sample (weights), then layer by layer, in place, before attention sees the rows.
//
//   std::unique_ptr<pikv::DriftCorrector> corrector = pikv::make_cpu_drift_corrector();
//   PIKV_TRY(corrector->weigh_async({.geometry = g, .layer = pikv::drift_layer(g.num_layers), .cached = cache,
//                                    .row_slots = slots, .sample_rows = repaired, .target_rows = others,
//                                    .sample_chunks = chunk_of_repaired, .target_chunks = chunk_of_others,
//                                    .rope = table.view(), .weights = weights}, stream));
//   for each layer:
//     PIKV_TRY(corrector->correct_async({.geometry = g, .layer = layer, .fresh = projected, .fresh_slots = pass_rows,
//                                        .cached = cache, .row_slots = slots, .sample_rows = repaired,
//                                        .target_rows = others, .weights = weights, .rope = table.view()}, stream));
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "pikv/geometry.hpp"
#include "pikv/rope.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// Samples that rows can be compared with: their comparisons with each other take the square of the number.
inline constexpr std::int32_t kMaxDriftSamples = 1024;

/// The layer whose rows tell best which rows drift alike, of a model: any of the deeper half does nearly as well.
[[nodiscard]] constexpr std::int32_t drift_layer(std::int32_t num_layers) noexcept { return num_layers * 7 / 10; }

/// How much each target row takes over from each sample: the best linear prediction of a Gaussian process (kriging;
/// Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, eq. 2.23) whose covariance falls with the
/// distance of two rows,
///   weights = k(T, R) (k(R, R) + noise I)^-1,   k(i, j) = c exp(-sum over channels of ((x_i - x_j) / s)^2 / F),
/// where x are the F = 2 H D channels of a row's cached semantic key and value in one layer, and s is each channel's
/// standard deviation over the samples. A channel in which all samples are equal does not count. c is 1 for rows of one
/// chunk, which miss the same context, and other_chunks for rows of two.
///
/// Behind the targets' weights stands how much each sample would take over from the others if it were not one itself
/// (leave-one-out; eq. 5.12): with C = (k(R, R) + noise I)^-1, -C_ij / C_ii from sample j, and 0 from itself.
struct DriftWeighing {
  KvGeometry geometry;                             ///< its dtype is not used: views name their own
  std::int32_t layer = 0;                          ///< in which rows are compared: drift_layer()
  ConstKvView cached;                              ///< the engine's cache with all its layers
  SlotMap row_slots = SlotMap::consecutive(0, 0);  ///< [N], the slot of every row of the prompt, none skipped
  std::span<const std::int32_t> sample_rows;       ///< [R] rows of the prompt, within [0, N); at most kMaxDriftSamples
  std::span<const std::int32_t> target_rows;       ///< [T] likewise, any number
  std::span<const std::int32_t> sample_chunks;     ///< [R] which chunk each is of; any numbers
  std::span<const std::int32_t> target_chunks;     ///< [T] likewise
  RopeTableView rope{};                            ///< for all rows
  float other_chunks = 0.2F;                       ///< within [0, 1]; measured, as is the noise
  /// Of a sample's drift that nothing resembling it shares, over what it does share; positive. A third is what was
  /// measured to predict best.
  float noise = 1.0F / 3;
  std::span<float> weights;  ///< [T + R][R], written
};

/// One layer. For each head, and K and V apart, every target row t moves by
///   gain * share * sum over samples i of weights[t][i] * d_i
/// (keys: turned by R(t)), with d_i = fresh - cached of sample i (cached keys turned back by R(-row)). The share is how
/// well samples predict each other there, so that what cannot be foretold moves nothing: with p_i = sum over samples j
/// of weights[T + i][j] * d_j it is sum(p_i d_i) / sum(p_i p_i) over samples and channels, within [0, 1], which is the
/// best in the sense of least squares; 0 where nothing is predicted. Sample rows are read and not written: fresh rows
/// replace them anyway.
struct DriftCorrection {
  KvGeometry geometry;  ///< its dtype is not used: views name their own
  std::int32_t layer = 0;
  ConstKvView fresh;  ///< semantic keys, and values, of this one layer: its layer strides and bases are not used
  SlotMap fresh_slots = SlotMap::consecutive(0, 0);  ///< [R] of the sample rows, none skipped
  KvView cached;                                     ///< the engine's cache with all its layers
  SlotMap row_slots = SlotMap::consecutive(0, 0);    ///< [N], the slot of every row of the prompt, none skipped
  std::span<const std::int32_t> sample_rows;         ///< [R] rows of the prompt, within [0, N)
  std::span<const std::int32_t> target_rows;         ///< [T] rows of the prompt, none of them a sample, none twice
  std::span<const float> weights;                    ///< [T + R][R]
  RopeTableView rope{};                              ///< for all rows
  float key_gain = 1.0F;
  float value_gain = 1.0F;
};

/// Spans and pointers are in space(), views in space() or pinned host memory. Arrays must stay as they are until the
/// stream has passed the call. The same call gives the same bits: sums run in an order that depends on the sizes alone,
/// in fp32; on a device the factors of a correction's sums are rounded to 11 bits (TF32). Nothing is synchronised;
/// scratch grows with the largest call, before anything is queued.
///
/// Thread-safety: one call at a time. Destroy it after the work queued with it is done.
/// Errors: kInvalidArgument naming the field, before anything is written; kUnsupported for heads beyond 256 elements
/// and fp8 caches; kOutOfMemory; on a device kDeviceError. Where space() is host memory indices out of range, and
/// targets that are samples or named twice, are refused; on a device they cannot be looked at and touch no memory out
/// of bounds.
class DriftCorrector {
 public:
  virtual ~DriftCorrector() = default;
  [[nodiscard]] virtual MemorySpace space() const noexcept = 0;
  [[nodiscard]] virtual Status weigh_async(const DriftWeighing& weighing, StreamRef stream) = 0;
  [[nodiscard]] virtual Status correct_async(const DriftCorrection& correction, StreamRef stream) = 0;
};

/// On threads of its own and the calling one; every call has done its work when it returns. num_threads: 0: all cores.
[[nodiscard]] PIKV_API std::unique_ptr<DriftCorrector> make_cpu_drift_corrector(std::int32_t num_threads = 0);

}  // namespace v0
}  // namespace pikv
