// What a device must be able to do for pikv: copy, order work, re-anchor and un-anchor. The CPU backend is always
// there; a CUDA backend when built. Callers choose one at run time and never by #ifdef.
//
// Re-anchoring moves K and V of cached segments into an engine's pages in one pass and turns the keys to their target
// positions on the way. Un-anchoring is the inverse, for engines that keep only rotated keys.
//
//   std::unique_ptr<pikv::Backend> backend = pikv::make_cpu_backend();
//   const pikv::KvRun run{.source = slab, .source_slots = pikv::SlotMap::consecutive(0, n),
//                         .target_slots = pikv::SlotMap::page_table(pages, 16, 0, n),
//                         .positions = pikv::PositionMap::consecutive(first)};
//   PIKV_TRY(backend->reanchor_async({.geometry = g, .runs = {&run, 1}, .target = cache, .rope = table.view(),
//                                     .layer_begin = 0, .layer_end = g.num_layers}, stream));
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "pikv/geometry.hpp"
#include "pikv/memory.hpp"
#include "pikv/rope.hpp"
#include "pikv/slab.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// The positions that a run's keys are turned to (or from): consecutive, or one for each token.
class PositionMap {
 public:
  [[nodiscard]] static constexpr PositionMap consecutive(Position first) noexcept {
    return PositionMap(nullptr, first, false);
  }
  /// positions: [num_tokens of the run], not null unless the run is empty, in the memory space of the backend.
  [[nodiscard]] static constexpr PositionMap per_token(const Position* positions) noexcept {
    return PositionMap(positions, 0, true);
  }
  [[nodiscard]] PIKV_HOST_DEVICE constexpr Position position(std::int64_t token) const noexcept {
    return is_per_token_ ? positions_[token] : first_ + static_cast<Position>(token);
  }
  [[nodiscard]] PIKV_HOST_DEVICE constexpr bool is_per_token() const noexcept { return is_per_token_; }
  /// Null when consecutive.
  [[nodiscard]] constexpr const Position* array() const noexcept { return positions_; }

 private:
  constexpr PositionMap(const Position* positions, Position first, bool is_per_token) noexcept
      : positions_(positions), first_(first), is_per_token_(is_per_token) {}
  const Position* positions_;
  Position first_;
  bool is_per_token_;
};

/// One contiguous stretch of tokens to move, out of a view or out of a chunk's slab. Both slot maps have the same
/// number of tokens. No two tokens of a transfer share a target slot, and no source element is a target element of the
/// same transfer.
struct KvRun {
  ConstKvView source;    ///< not used when a slab is given
  ConstSlabView slab{};  ///< in any format; its slots are the chunk's tokens. Its data null: none. Only to re-anchor.
  SlotMap source_slots = SlotMap::consecutive(0, 0);
  SlotMap target_slots = SlotMap::consecutive(0, 0);  ///< tokens at kSkipSlot are left out
  PositionMap positions = PositionMap::consecutive(0);
};

/// Many runs into one target, for layers [layer_begin, layer_end). The transfer, its `runs` and arrays of bases per
/// layer are read before the call returns; what else views, slot maps, position maps and the table point to must stay
/// alive until the stream has passed the call.
struct KvTransfer {
  KvGeometry geometry;  ///< its dtype is not used: source and target views name their own
  std::span<const KvRun> runs;
  KvView target;
  RopeTableView
      rope{};  ///< half_dim 0 (a default RopeTableView): keys are moved without turning, positions are not read
  std::int32_t layer_begin = 0;
  std::int32_t layer_end = 0;
};

/// One chunk, or some of its layers, to bring into a stored format. Slots of the slab are its tokens; `source_slots`
/// has one for each, none of them skipped. What must stay alive until when is as for a KvTransfer.
struct SlabEncode {
  KvGeometry geometry;  ///< of the slab
  ConstKvView source;
  SlotMap source_slots = SlotMap::consecutive(0, 0);
  PositionMap positions = PositionMap::consecutive(0);
  RopeTableView
      rope{};       ///< half_dim 0: the source's keys are semantic; else they stand at `positions`, and are turned back
  SlabView target;  ///< every byte that a decoder reads is written; scales are found over all T tokens
  std::int32_t layer_begin = 0;
  std::int32_t layer_end = 0;
};

/// A point in a stream's work that others can wait for. Made by the backend that uses it.
class Event {
 public:
  virtual ~Event() = default;
};

/// A stream of the backend's own, for work beside the engine's. Destroying it waits for nothing: work queued on it
/// still runs.
class Stream {
 public:
  virtual ~Stream() = default;
  [[nodiscard]] virtual StreamRef ref() const noexcept = 0;
};

struct BackendCaps {
  std::string_view name;                   ///< "cpu", "cuda"
  MemorySpace space = MemorySpace::kHost;  ///< where sources, targets, tables and index arrays must lie
  bool asynchronous = false;               ///< false: every call has done its work when it returns
};

/// Thread-safety: calls on different streams may run together; calls on one stream must not.
/// Errors: kInvalidArgument for a transfer that contradicts itself, kUnsupported for a layout or dtype this backend
/// does not move, both before any byte is written; kDeviceError is sticky.
class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual BackendCaps caps() const noexcept = 0;
  /// The backend's ordinary memory; a host application may bring its own instead.
  [[nodiscard]] virtual MemoryResource& memory_resource() noexcept = 0;

  /// Semantic keys and values of the runs' sources to the target, keys turned by R(position). Target elements are
  /// rounded once, to nearest even.
  [[nodiscard]] virtual Status reanchor_async(const KvTransfer& transfer, StreamRef stream) = 0;
  /// Rotated keys and values of the runs' sources to the target, keys turned back by R(-position).
  [[nodiscard]] virtual Status unanchor_async(const KvTransfer& transfer, StreamRef stream) = 0;

  /// Keys and values into a chunk's slab, in its format: exactly the operations of pikv/detail/quantize.hpp. kPlain is
  /// encoded as reanchor_async() without a table, or unanchor_async() with one, moves.
  [[nodiscard]] virtual Status encode_async(const SlabEncode& encode, StreamRef stream) = 0;

  /// `size_bytes` bytes from `source` to `target`, which must not overlap. Each may lie in any memory space that the
  /// backend can reach.
  [[nodiscard]] virtual Status copy_async(void* target, const void* source, std::size_t size_bytes,
                                          StreamRef stream) = 0;

  [[nodiscard]] virtual Result<std::unique_ptr<Stream>> create_stream() = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Event>> create_event() = 0;
  [[nodiscard]] virtual Status record(Event& event, StreamRef stream) = 0;
  /// Work queued on `stream` from now on starts after `event` as it was recorded last before this call.
  [[nodiscard]] virtual Status wait(const Event& event, StreamRef stream) = 0;
  /// Returns when everything queued on `stream` is done. Nothing in pikv calls it on an engine's stream.
  [[nodiscard]] virtual Status synchronize(StreamRef stream) = 0;
};

/// Everything about a transfer that can be checked without touching device memory: ranges, equal counts, validity of
/// both views, positions inside the table and slots inside source and target (consecutive ones always, arrays where
/// caps.space is host memory). Positions and source slots of tokens that are left out are not looked at. Views must lie
/// in caps.space or in pinned host memory. The message names the field, and of arrays the entry. Backends call it
/// first.
[[nodiscard]] PIKV_API Status validate(const KvTransfer& transfer, const BackendCaps& caps);
[[nodiscard]] PIKV_API Status validate(const SlabEncode& encode, const BackendCaps& caps);

/// A copy of `table` in the backend's memory space, which is where kernels read it; the table itself where that is host
/// memory. Returns once it is there. `memory` must outlive all copies of the result; errors are its own and those of
/// copy_async().
[[nodiscard]] PIKV_API Result<RopeTable> copy_table(const RopeTable& table, Backend& backend, MemoryResource& memory);

struct CpuBackendOptions {
  std::int32_t num_threads = 0;  ///< 0 or less: all cores. The calling thread works too.
  /// Transfers that write at least this much bypass the cache where alignment allows; 0: half of the last-level cache.
  std::int64_t stream_from_bytes = 0;
};

/// The CPU backend: vectorised, multi-threaded, one pass over the data.
[[nodiscard]] PIKV_API std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options = {});

}  // namespace v0
}  // namespace pikv
