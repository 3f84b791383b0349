// What repair policies are told about rows: how far a row's fresh K and V lie from the cached ones, and how much some
// rows attend to others. Measured where the engine's cache lies, layer by layer, on the engine's stream.
//
//   std::unique_ptr<pikv::RowScorer> scorer = pikv::make_cpu_row_scorer();
//   std::vector<float> scores(num_rows);                                  // zeroed: scores are added
//   PIKV_TRY(scorer->add_attention_async({.geometry = g, .num_query_heads = 32, .layer = 7, .keys = cache,
//                                         .key_slots = row_slots, .queries = queries, .query_rows = question_rows,
//                                         .key_scores = scores}, stream));
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "pikv/backend.hpp"
#include "pikv/geometry.hpp"
#include "pikv/rope.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// Squared distance between fresh rows and the rows that a cache holds in their place:
///   scores[i] += key_weight * sum over heads and dims of (K_fresh - K_cached)^2 + value_weight * the same of V.
/// Keys are compared as they stand in the cache, that is turned to their positions (CacheBlend's deviation).
struct DeviationScoring {
  KvGeometry geometry;  ///< its dtype is not used: views name their own
  std::int32_t layer = 0;
  ConstKvView fresh;  ///< semantic keys, and values, of this one layer: its layer strides and bases are not used
  SlotMap fresh_slots = SlotMap::consecutive(0, 0);  ///< [T], none skipped
  ConstKvView cached;                                ///< the engine's cache with all its layers
  SlotMap cached_slots = SlotMap::consecutive(0, 0);  ///< [T], none skipped
  PositionMap positions = PositionMap::consecutive(0);
  RopeTableView rope{};  ///< not read when key_weight is 0
  float key_weight = 0.0F;
  float value_weight = 1.0F;
  std::span<float> scores;  ///< [T], added to
};

/// Attention weights of some rows' queries over an engine's cache, mean over query heads. Row r attends the keys of rows
/// [0, r]. Either output may be left empty.
struct AttentionScoring {
  KvGeometry geometry;  ///< its dtype is not used
  std::int32_t num_query_heads = 0;  ///< Q, a multiple of H
  std::int32_t layer = 0;
  ConstKvView keys;  ///< the engine's cache with all its layers; keys stand at their positions
  SlotMap key_slots = SlotMap::consecutive(0, 0);  ///< [N], the slot of every row of the prompt, none skipped
  const void* queries = nullptr;  ///< [R] rows of [Q][D] of query_dtype, turned to their positions
  DType query_dtype = DType::kFloat32;
  std::int64_t query_stride = 0;  ///< elements from one row to the next
  std::span<const std::int32_t> query_rows{};  ///< [R] rows of the prompt, ascending, each within [0, N)
  float scale = 0.0F;  ///< of products before softmax; 0: 1 / sqrt(D)
  /// [N], added to: the weight that each key gets from all R rows.
  std::span<float> key_scores{};
  /// [R][num_segments], added to: the weight that each row gives to the keys of each segment. key_segments: [N], within
  /// [0, num_segments).
  std::span<const std::int32_t> key_segments{};
  std::int32_t num_segments = 0;
  std::span<float> segment_scores{};
};

/// All spans and pointers are in space(), views in space() or pinned host memory; outputs overlap nothing else. Arrays
/// must stay as they are until the stream has passed the call. Arithmetic is fp32, each score is rounded in an order
/// that depends on the sizes alone: the same call gives the same bits. Nothing is synchronised; scratch grows with the
/// largest call, before anything is queued.
///
/// Thread-safety: one call at a time. Destroy it after the work queued with it is done.
/// Errors: kInvalidArgument naming the field, before anything is written; kUnsupported for heads beyond 256 elements and
/// fp8 caches; kOutOfMemory; on a device kDeviceError. Where space() is host memory indices out of range are refused; on
/// a device they cannot be looked at, touch no memory out of bounds, and leave the scores unspecified.
class RowScorer {
 public:
  virtual ~RowScorer() = default;
  [[nodiscard]] virtual MemorySpace space() const noexcept = 0;
  [[nodiscard]] virtual Status add_deviation_async(const DeviationScoring& scoring, StreamRef stream) = 0;
  [[nodiscard]] virtual Status add_attention_async(const AttentionScoring& scoring, StreamRef stream) = 0;
};

/// On threads of its own and the calling one; every call has done its work when it returns. num_threads: 0: all cores.
[[nodiscard]] PIKV_API std::unique_ptr<RowScorer> make_cpu_row_scorer(std::int32_t num_threads = 0);

}  // namespace v0
}  // namespace pikv
