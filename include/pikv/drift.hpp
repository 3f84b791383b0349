// What repaired rows tell of the rows beside them.
//
// The difference between a chunk's fresh and cached rows has a part that all its rows share: above all the keys of a
// chunk move together when it gets a context that it was encoded without. Before RoPE that part is one vector a head,
// whatever the positions, so that a few repaired rows are enough to find it, and every other row of the chunk can be
// moved by it in place, its keys turned to where they stand.
//
//   std::unique_ptr<pikv::DriftCorrector> corrector = pikv::make_cpu_drift_corrector();
//   PIKV_TRY(corrector->correct_async({.geometry = g, .layer = 7, .fresh = projected, .fresh_slots = pass_rows,
//                                      .cached = cache, .row_slots = slots, .sample_rows = repaired,
//                                      .sample_offsets = repaired_of_chunk, .target_rows = others,
//                                      .target_offsets = others_of_chunk, .rope = table.view()}, stream));
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

/// One layer of some chunks of a prompt. Row = position. For each head, and K and V apart, with d_i = fresh - cached of
/// sample i (cached keys turned back by R(-row)), every target row of a chunk moves by
///   gain * (g + shrink(m - g) * (m - g)),   shrink(x) = max(0, 1 - sum(s^2) / (n * sum(x^2)))
/// (keys: turned by R(row)), where m is the mean and s^2 the sample variance by channel of the chunk's n samples, and
/// g = shrink(M) * M of the mean M of all samples: the positive-part James-Stein estimate of what a chunk's rows have
/// drifted, towards what all have drifted, and of that towards nothing (Efron and Morris, "Stein's estimation rule and
/// its competitors", 1973). What is not sure to be common is left out. A chunk with fewer than two samples moves by
/// gain * g. Sample rows are read and not written: fresh rows replace them anyway.
struct DriftCorrection {
  KvGeometry geometry;  ///< its dtype is not used: views name their own
  std::int32_t layer = 0;
  ConstKvView fresh;  ///< semantic keys, and values, of this one layer: its layer strides and bases are not used
  SlotMap fresh_slots = SlotMap::consecutive(0, 0);  ///< [R] of the sample rows, none skipped
  KvView cached;                                     ///< the engine's cache with all its layers
  SlotMap row_slots = SlotMap::consecutive(0, 0);    ///< [N], the slot of every row of the prompt, none skipped
  std::span<const std::int32_t> sample_rows;         ///< [R] rows of the prompt, within [0, N)
  std::span<const std::int32_t> sample_offsets;      ///< [C + 1] which samples are of which chunk, from 0 to R
  std::span<const std::int32_t> target_rows;         ///< [T] rows of the prompt, none of them a sample, none twice
  std::span<const std::int32_t> target_offsets;      ///< [C + 1] likewise, from 0 to T
  RopeTableView rope{};                              ///< for all rows
  float key_gain = 1.0F;
  float value_gain = 1.0F;
};

/// Spans and pointers are in space(), views in space() or pinned host memory. Arrays must stay as they are until the
/// stream has passed the call. Arithmetic is fp32 in an order that depends on the sizes alone: the same call gives the
/// same bits. On a device nothing is allocated or synchronised, so that calls can be captured in a CUDA graph.
///
/// Thread-safety: calls on different streams may run together where their targets differ.
/// Errors: kInvalidArgument naming the field, before anything is written; kUnsupported for heads beyond 256 elements
/// and fp8 caches; kOutOfMemory; on a device kDeviceError. Where space() is host memory indices out of range, and
/// targets that are samples or named twice, are refused; on a device they cannot be looked at and touch no memory out
/// of bounds.
class DriftCorrector {
 public:
  virtual ~DriftCorrector() = default;
  [[nodiscard]] virtual MemorySpace space() const noexcept = 0;
  [[nodiscard]] virtual Status correct_async(const DriftCorrection& correction, StreamRef stream) = 0;
};

/// On threads of its own and the calling one; every call has done its work when it returns. num_threads: 0: all cores.
[[nodiscard]] PIKV_API std::unique_ptr<DriftCorrector> make_cpu_drift_corrector(std::int32_t num_threads = 0);

}  // namespace v0
}  // namespace pikv
