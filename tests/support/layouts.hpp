// Every KV layout that the tests and benchmarks know, placed in one buffer.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "pikv/geometry.hpp"

namespace test_support {

enum class LayoutKind : std::uint8_t {
  kSlab,              // pikv's own
  kNhd,               // FlashInfer, K and V apart
  kHnd,               // TensorRT-LLM blocks
  kFusedNhd,          // vLLM with FlashInfer
  kFusedHnd,          //   the same, heads outermost
  kPackedNhd,         // vLLM's K and V in one row
  kPackedHnd,         //   the same, heads outermost
  kKvFirst,           // vLLM with FlashAttention: [2][P][S][H][D], a base per layer
  kTokenPool,         // SGLang: a base per layer, page size 1, slot 0 unused
  kTransposedValues,  // llama.cpp without flash attention
  kHeadsOutermost,    // Hugging Face: [H][T][D], a base per layer
  kLayersInPages,     // TensorRT-LLM's and vLLM's cross-layer pools: [P][L][2][H][S][D]
  kPaddedHeads,       // heads some elements apart, tokens on boundaries: aligned but for the heads
  kStridedChannels,   // channels outermost in K and V, tokens innermost
  kRandomStrides,     // axes in random order with random gaps
};

[[nodiscard]] std::span<const LayoutKind> all_layouts();
[[nodiscard]] const char* layout_name(LayoutKind kind);

/// A layout and where it lies in a buffer of `num_elements` elements; offsets in elements from the buffer's start.
struct Placement {
  pikv::KvLayout layout;
  std::int64_t num_slots = 0;
  std::int64_t num_elements = 0;
  std::int64_t k_start = 0;
  std::int64_t v_start = 0;
  std::vector<std::int64_t> k_layer_starts;  // [L] where layers have bases of their own, else empty
  std::vector<std::int64_t> v_layer_starts;
};

/// Room for at least `min_slots` slots. `random` serves kRandomStrides alone.
[[nodiscard]] Placement place(LayoutKind kind, const pikv::KvGeometry& geometry, std::int32_t page_size,
                              std::int64_t min_slots, std::mt19937& random);

/// The view of a placement at `buffer`; owns the arrays of bases that the view points to.
class PlacedView {
 public:
  PlacedView(const Placement& placement, std::int32_t num_layers, std::byte* buffer);
  PlacedView(const PlacedView&) = delete;
  PlacedView& operator=(const PlacedView&) = delete;

  [[nodiscard]] const pikv::KvView& view() const { return view_; }

 private:
  std::vector<std::byte*> k_layers_;
  std::vector<std::byte*> v_layers_;
  pikv::KvView view_;
};

}  // namespace test_support
