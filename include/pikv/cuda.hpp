// The CUDA backend: what pikv does on NVIDIA GPUs, and the bridge from CUDA's streams to pikv's.
//
// This is the only header that names a CUDA type, and it needs no CUDA toolkit to compile.
//
//   pikv::Result<std::unique_ptr<pikv::Backend>> backend = pikv::make_cuda_backend();
//   if (!backend.ok()) backend = pikv::make_cpu_backend();   // the status says why
//   PIKV_TRY((*backend)->reanchor_async(transfer, pikv::cuda_stream(stream)));
//
// Transfers are kernel launches on the caller's stream and nothing else: no allocation, no synchronisation, so that
// they can be captured in a CUDA graph. A graph replays the views, slot maps and positions it was captured with; what
// slot and position arrays hold may change between replays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "pikv/backend.hpp"
#include "pikv/drift.hpp"
#include "pikv/memory.hpp"
#include "pikv/row_scores.hpp"
#include "pikv/selection.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

struct CUstream_st;  // CUDA's own name for what cudaStream_t and CUstream point to

namespace pikv {
inline namespace v0 {

/// stream: null is CUDA's legacy default stream.
[[nodiscard]] inline StreamRef cuda_stream(CUstream_st* stream) noexcept { return StreamRef::from_handle(stream); }

struct CudaBackendOptions {
  int device = 0;  ///< CUDA ordinal
};

/// A backend for one GPU of compute capability 9.0 or above. Its memory_resource() is stream-ordered device memory
/// (cuda_device_memory). Calls select the device on the calling thread and put back what was selected.
///
/// What kernels read on the device cannot be checked on the host: a slot or a position out of range leaves the token
/// unwritten, and the next call that returns a Status, on any stream, says kInvalidArgument once.
///
/// Errors: kUnavailable when there is no driver or no such device, kUnsupported for a device that is too old and in a
/// build without CUDA; the message says which.
[[nodiscard]] PIKV_API Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaBackendOptions& options = {});

/// Device memory from a pool of its own (cudaMallocAsync): memory goes back to the pool in stream order and to the
/// driver when the resource is destroyed. Destroy it after everything that was allocated from it.
[[nodiscard]] PIKV_API Result<std::unique_ptr<MemoryResource>> make_cuda_device_memory(int device = 0);

/// Page-locked host memory, which the GPU's copy engines read at full speed. Taken from the driver in pieces of at
/// least `block_bytes` and kept for reuse until the resource is destroyed, since locking pages is slow.
[[nodiscard]] PIKV_API Result<std::unique_ptr<MemoryResource>> make_cuda_pinned_memory(
    std::size_t block_bytes = std::size_t{64} << 20);

struct CudaRowSelectorOptions {
  std::int32_t max_rows = 0;         ///< the most scores that one call may have
  std::int32_t max_segments = 0;     ///< the most segments that one call may have
  MemoryResource* memory = nullptr;  ///< of the device; outlives the selector. 25 bytes a row, and what CUB needs
  int device = 0;                    ///< CUDA ordinal
};

/// Selection by score on one GPU. Takes its workspace here, on the legacy default stream, and waits for that stream.
/// Errors: kInvalidArgument, kUnavailable, what `memory` says, and kUnsupported in a build without CUDA.
[[nodiscard]] PIKV_API Result<std::unique_ptr<RowSelector>> make_cuda_row_selector(
    const CudaRowSelectorOptions& options);

struct CudaRowScorerOptions {
  MemoryResource* memory = nullptr;  ///< of the device, in the order of streams; outlives the scorer
  int device = 0;                    ///< CUDA ordinal
};

/// Scores of rows on one GPU. Takes workspace when a call needs more than all before it did, on that call's stream;
/// calls on different streams have to be ordered by events. A call that takes none can be captured in a CUDA graph,
/// which then replays until a later call takes more. Destroy the scorer while the stream of its last call exists.
/// Errors: kInvalidArgument, kUnavailable, and kUnsupported in a build without CUDA; of calls also kUnsupported for
/// views beyond the reach of the CUDA backend.
[[nodiscard]] PIKV_API Result<std::unique_ptr<RowScorer>> make_cuda_row_scorer(const CudaRowScorerOptions& options);

struct CudaDriftCorrectorOptions {
  MemoryResource* memory = nullptr;  ///< of the device, in the order of streams; outlives the corrector
  int device = 0;                    ///< CUDA ordinal
};

/// Drift of rows on one GPU. Takes workspace as a scorer does: for a weighing of T targets by R samples
/// 8 H D (T + R) + 4 R^2 bytes, for a correction 8 H D R. Captured in a CUDA graph, a call replays the spans, views and
/// gains that it was captured with; what the arrays hold may change between replays. Destroy the corrector while the
/// stream of its last call exists.
/// Errors: kInvalidArgument, kUnavailable, and kUnsupported in a build without CUDA; of calls also kUnsupported for
/// views beyond the reach of the CUDA backend.
[[nodiscard]] PIKV_API Result<std::unique_ptr<DriftCorrector>> make_cuda_drift_corrector(
    const CudaDriftCorrectorOptions& options);

}  // namespace v0
}  // namespace pikv
