// The KV caches of today's engines as views: strides and bases, nothing is copied and no device memory is touched.
//
// Two ways to the same KvView. `view_from_strides` takes each tensor as its framework reports it, size and stride of
// every axis: the sturdier way, because engines change the physical order of a cache between versions and by
// environment variable while strides tell it as it is. `engine_view` takes the name of a form, for engines without
// tensors to ask. docs/integration.md has a table of engines.
//
//   std::vector<std::byte*> bases(2 * geometry.num_layers);  // as long as the view
//   const pikv::CacheMemory memory{.geometry = geometry, .dtype = pikv::DType::kBFloat16, .tensors = layer_tensors,
//                                  .layer_bases = bases, .space = pikv::MemorySpace::kDevice};
//   pikv::Result<pikv::KvView> view = pikv::engine_view(
//       memory, {.form = pikv::CacheForm::kPagesFirst, .order = pikv::HeadOrder::kHnd, .page_size = 16,
//                .num_pages = num_blocks});
//
// What pikv cannot serve is refused at once with kUnsupported and the reason, what contradicts itself with
// kInvalidArgument; a view that is returned has passed validate(). Thread-safety: functions of their arguments.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "pikv/geometry.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// The type of a cache's elements by the name that its engine gives it: "bfloat16", "torch.float16", "f32",
/// "fp8_e4m3", ... "fp8" alone is e4m3, as vLLM means it on NVIDIA GPUs.
/// Errors: kUnsupported for e5m2 and fnuz fp8, nvfp4, integers, llama.cpp's quantised rows (q8_0, q4_0, ...) and names
/// that are not known; "auto" and "uint8", which say nothing of the format, included.
[[nodiscard]] PIKV_API Result<DType> engine_dtype(std::string_view name);

/// What both ways need to know of a cache. Owns nothing.
struct CacheMemory {
  KvGeometry geometry;
  DType dtype = DType::kBFloat16;  ///< of the elements; kFloat8E4M3: value = element * scale
  /// First bytes of the tensors: one for each layer, or one that holds all layers. Where K and V are tensors of their
  /// own, all of K's stand before all of V's, [2 * L] or [2]. The span is not kept.
  std::span<std::byte* const> tensors;
  /// [2 * L] in host memory: filled with a base of K, then of V, for each layer when layers are tensors of their own,
  /// and pointed to by the view, so it must live as long. Not used, and may be empty, otherwise.
  std::span<std::byte*> layer_bases{};
  KvScales scales{};  ///< of kFloat8E4M3, copied to the view; vLLM's k_scale and v_scale as they are
  MemorySpace space = MemorySpace::kHost;
};

/// One axis of a cache tensor. The letters are those of pikv's shapes.
enum class Axis : char {
  kLayer = 'L',
  kKeyOrValue = '2',  ///< length 2: K, then V
  kPage = 'P',        ///< of Hugging Face the batch, of llama.cpp the stream; may be absent
  kToken = 'S',       ///< within a page; without pages, of the pool
  kHead = 'H',
  kDim = 'D',
  kPackedDim = 'E',  ///< length 2D, in place of kDim: a key and, behind it, its value
};

/// As a tensor reports it: in PyTorch t.size(i) and t.stride(i), in ggml ne[i] and nb[i] / element size.
struct CacheAxis {
  Axis axis;
  std::int64_t size;
  std::int64_t stride;  ///< in elements
};

/// The view of tensors whose axes are given in any order, each at most once. kToken, kHead and kDim or kPackedDim must
/// be there; a dimension that fuses heads and channels is given as both. K and V are told apart by kKeyOrValue or by
/// kPackedDim, or are tensors of their own. Slots count tokens page by page: slot = page * tokens a page + token; of a
/// Hugging Face cache [B, H, T, D] the slots of batch entry b start at b * T.
/// v_axes: of V's tensors where they are laid out otherwise than K's (llama.cpp without flash attention); else empty.
/// Errors: kInvalidArgument, naming the axis, for sizes that are not the geometry's or not positive, for axes missing,
/// given twice or overlapping, for too few tensors or bases, and whatever validate() refuses; kUnsupported for a cache
/// without a head axis, which holds one latent row for each token (MLA).
[[nodiscard]] PIKV_API Result<KvView> view_from_strides(const CacheMemory& memory, std::span<const CacheAxis> axes,
                                                        std::span<const CacheAxis> v_axes = {});

/// Whether tokens or heads are outermost within a page.
enum class HeadOrder : std::uint8_t { kNhd, kHnd };

/// The order of a contiguous cache in memory, outermost axis first, as NHD and as HND. Letters: L layers, P pages
/// (blocks), S tokens a page, H KV heads, D head size; 2 is K and V.
enum class CacheForm : std::uint8_t {
  /// [P,S,H,D] or [P,H,S,D] for K and again for V. FlashInfer's pair of tensors; SGLang's token pools; llama.cpp with
  /// flash attention (P streams of S cells); Hugging Face (HND: P batch entries of S tokens).
  kSeparate,
  kKvFirst,     ///< [2,P,S,H,D] or [2,P,H,S,D]: vLLM's FlashAttention backend until spring 2026
  kPagesFirst,  ///< [P,2,S,H,D] or [P,2,H,S,D]: vLLM's FlashInfer backend, later all of vLLM; FlashInfer's one tensor
  kPacked,      ///< [P,S,H,2D] or [P,H,S,2D]: vLLM from summer 2026
  kCrossLayer,  ///< [P,L,2,S,H,D] or [P,H,L,2,S,D]: vLLM's one tensor for all layers
  kTensorRtLlmPool,   ///< [P,L,2,H,S,D]: HND alone
  kTransposedValues,  ///< K [P,S,H,D], V [P,H,D,S]: llama.cpp without flash attention; NHD alone
  kLatent,            ///< refused: MLA, one latent row for each token
  kSplitKeys,         ///< refused: vLLM v0's paged attention, K [P,H,D/x,S,x]
};

struct EngineLayout {
  CacheForm form = CacheForm::kSeparate;
  HeadOrder order = HeadOrder::kNhd;
  std::int32_t page_size = 0;  ///< S; 1 for a pool of single tokens
  std::int64_t num_pages = 0;  ///< P; with those that an engine keeps for padding
};

/// The view of a contiguous cache. A tensor that holds all layers has them outermost unless the form says otherwise.
/// Errors: as view_from_strides(); kUnsupported for the forms marked as refused and for orders that a form has not.
[[nodiscard]] PIKV_API Result<KvView> engine_view(const CacheMemory& memory, const EngineLayout& layout);

/// Marks what an engine writes off as padding as "do not write": every slot in [0, num_padding_slots) becomes
/// kSkipSlot. vLLM says -1 for such rows, which is kSkipSlot already. SGLang says slot 0 (its first page when paged), a
/// place that exists and is never read; several rows may name it, which a transfer does not allow. So: pass target
/// slots of SGLang
/// (`out_cache_loc`) through here, or replace zeros by -1 on the device in the same way.
/// slots: [num_tokens] in host memory, may be empty.
PIKV_API void skip_padding_slots(std::span<Slot> slots, Slot num_padding_slots = 1) noexcept;

}  // namespace v0
}  // namespace pikv
