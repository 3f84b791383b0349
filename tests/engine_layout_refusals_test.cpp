// What engines' caches cannot be served, and why; the names of element types; slots that pad.
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pikv/engine_layouts.hpp"

namespace {

using pikv::Axis;
using pikv::DType;
using pikv::ErrorCode;
using enum pikv::CacheForm;
using enum pikv::HeadOrder;

constexpr pikv::KvGeometry kSmall{
    .num_layers = 3, .num_kv_heads = 2, .head_dim = 8, .rotary_dim = 6, .dtype = DType::kBFloat16};
constexpr DType kBf16 = DType::kBFloat16;
constexpr DType kF16 = DType::kFloat16;
constexpr DType kF32 = DType::kFloat32;
constexpr DType kFp8 = DType::kFloat8E4M3;

enum class Way { kByForm, kByStrides };

/// A call that would succeed, for the tests to spoil.
struct Call {
  pikv::CacheMemory memory;
  pikv::EngineLayout layout{.form = kPagesFirst, .order = kNhd, .page_size = 4, .num_pages = 5};
  std::vector<std::byte*> tensors = std::vector<std::byte*>(3, reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40));
  std::vector<std::byte*> bases = std::vector<std::byte*>(6);
  std::vector<pikv::CacheAxis> axes{{Axis::kPage, 5, 128},
                                    {Axis::kKeyOrValue, 2, 64},
                                    {Axis::kToken, 4, 16},
                                    {Axis::kHead, 2, 8},
                                    {Axis::kDim, 8, 1}};
  std::vector<pikv::CacheAxis> v_axes;
};

pikv::Status status_of(Way way, void (*spoil)(Call&)) {
  Call call;
  call.memory = {.geometry = kSmall, .dtype = kBf16, .tensors = {}};
  spoil(call);
  call.memory.tensors = call.tensors;
  call.memory.layer_bases = call.bases;
  if (way == Way::kByForm) return pikv::engine_view(call.memory, call.layout).status();
  return pikv::view_from_strides(call.memory, call.axes, call.v_axes).status();
}

TEST_CASE("what cannot be served is refused, and the reason named") {
  struct Refusal {
    Way way;
    void (*spoil)(Call&);
    ErrorCode code;
    const char* word;
  };
  constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;
  constexpr ErrorCode kInvalid = ErrorCode::kInvalidArgument;
  const Refusal refusals[] = {
      {Way::kByForm, [](Call& c) { c.layout.form = kLatent; }, kUnsupported, "MLA"},
      {Way::kByForm, [](Call& c) { c.layout.form = kSplitKeys; }, kUnsupported, "v0"},
      {Way::kByForm, [](Call& c) { c.layout.form = kTensorRtLlmPool; }, kUnsupported, "HND alone"},
      {Way::kByForm,
       [](Call& c) {
         c.layout = {kTransposedValues, kHnd, 4, 5};
       },
       kUnsupported, "NHD alone"},
      {Way::kByForm, [](Call& c) { c.layout.form = static_cast<pikv::CacheForm>(99); }, kInvalid, "CacheForm"},
      {Way::kByForm, [](Call& c) { c.layout.order = static_cast<pikv::HeadOrder>(9); }, kInvalid, "HeadOrder"},
      {Way::kByForm, [](Call& c) { c.layout.page_size = 0; }, kInvalid, "page_size is 0"},
      {Way::kByForm, [](Call& c) { c.layout.page_size = -16; }, kInvalid, "page_size is -16"},
      {Way::kByForm, [](Call& c) { c.layout.num_pages = 0; }, kInvalid, "num_pages is 0"},
      {Way::kByForm, [](Call& c) { c.layout.num_pages = std::int64_t{1} << 60; }, kInvalid, "63 bits"},
      {Way::kByForm, [](Call& c) { c.memory.geometry.head_dim = 0; }, kInvalid, "head_dim"},
      {Way::kByForm, [](Call& c) { c.tensors.pop_back(); }, kInvalid, "tensors has 2 entries, must have 3"},
      {Way::kByForm, [](Call& c) { c.tensors.clear(); }, kInvalid, "tensors has 0"},
      {Way::kByForm, [](Call& c) { c.layout.form = kSeparate; }, kInvalid, "must have 6"},
      {Way::kByForm, [](Call& c) { c.layout.form = kCrossLayer; }, kInvalid, "must have 1"},
      {Way::kByForm, [](Call& c) { c.tensors[1] = nullptr; }, kInvalid, "tensors[1] is null"},
      {Way::kByForm, [](Call& c) { c.tensors[2] += 1; }, kInvalid, "k_layers[2] is not aligned"},
      {Way::kByForm, [](Call& c) { c.bases.resize(5); }, kInvalid, "layer_bases has room for 5"},
      {Way::kByForm, [](Call& c) { c.memory.dtype = static_cast<DType>(17); }, kInvalid, "dtype"},
      {Way::kByStrides,
       [](Call& c) {
         c.axes = {{Axis::kPage, 5, 64}, {Axis::kToken, 4, 16}, {Axis::kDim, 8, 1}};
       },
       kUnsupported, "MLA"},
      {Way::kByStrides, [](Call& c) { c.axes.clear(); }, kUnsupported, "'H'"},
      {Way::kByStrides, [](Call& c) { c.axes.erase(c.axes.begin() + 2); }, kInvalid, "'S' of the cache is missing"},
      {Way::kByStrides, [](Call& c) { c.axes.pop_back(); }, kInvalid, "exactly one"},
      {Way::kByStrides, [](Call& c) { c.axes.push_back(c.axes[3]); }, kInvalid, "'H' of the cache is given twice"},
      {Way::kByStrides,
       [](Call& c) {
         c.axes.back() = {Axis::kPackedDim, 16, 1};
       },
       kInvalid, "both tell K from V"},
      {Way::kByStrides, [](Call& c) { c.axes[3].size = 4; }, kInvalid, "'H' of the cache has size 4, must be 2"},
      {Way::kByStrides, [](Call& c) { c.axes[2].size = 0; }, kInvalid, "'S' of the cache has size 0"},
      {Way::kByStrides, [](Call& c) { c.axes[0].size = -5; }, kInvalid, "'P' of the cache has size -5"},
      {Way::kByStrides, [](Call& c) { c.axes[0].stride = -128; }, kInvalid, "stride -128"},
      {Way::kByStrides, [](Call& c) { c.axes[3].stride = 4; }, kInvalid, "k.head is 4"},
      {Way::kByStrides, [](Call& c) { c.axes[1].stride = 0; }, kInvalid, "share an address"},
      {Way::kByStrides, [](Call& c) { c.axes[1].stride = std::int64_t{1} << 62; }, kInvalid, "63 bits"},
      {Way::kByStrides, [](Call& c) { c.axes[2].size = std::int64_t{1} << 31; }, kInvalid, "tokens a page"},
      {Way::kByStrides, [](Call& c) { c.axes[0].axis = static_cast<Axis>('x'); }, kInvalid, "not an enumerator"},
      {Way::kByStrides, [](Call& c) { c.v_axes = c.axes; }, kInvalid, "one set of axes"},
      {Way::kByStrides,
       [](Call& c) {
         c.axes.erase(c.axes.begin() + 1);
         c.v_axes = c.axes;
         c.v_axes[0].size = 6;
       },
       kInvalid, "size 5 in K and 6 in V"},
  };
  for (const Way way : {Way::kByForm, Way::kByStrides}) {
    const pikv::Status sound = status_of(way, [](Call&) {});
    CHECK_MESSAGE(sound.ok(), sound.to_string());
  }
  for (const Refusal& refusal : refusals) {
    const pikv::Status status = status_of(refusal.way, refusal.spoil);
    CAPTURE(refusal.word);
    CAPTURE(status.to_string());
    CHECK(status.code() == refusal.code);
    CHECK(status.message().find(refusal.word) != std::string_view::npos);
  }
}

TEST_CASE("element types by the names that engines give them") {
  CHECK(pikv::engine_dtype("torch.bfloat16").value() == kBf16);
  CHECK(pikv::engine_dtype("bf16").value() == kBf16);
  CHECK(pikv::engine_dtype("f16").value() == kF16);
  CHECK(pikv::engine_dtype("torch.float32").value() == kF32);
  CHECK(pikv::engine_dtype("fp8").value() == kFp8);
  CHECK(pikv::engine_dtype("torch.float8_e4m3fn").value() == kFp8);
  struct Refused {
    const char* name;
    const char* word;
  };
  for (const Refused& refused :
       {Refused{"fp8_e5m2", "e4m3"}, Refused{"torch.float8_e5m2", "e4m3"}, Refused{"float8_e4m3fnuz", "bias"},
        Refused{"nvfp4", "4-bit"}, Refused{"q8_0", "Hadamard"}, Refused{"q4_0", "Hadamard"},
        Refused{"iq4_nl", "Hadamard"}, Refused{"fp8_ds_mla", "MLA"}, Refused{"auto", "model"}, Refused{"uint8", "held"},
        Refused{"int8", "serves"}, Refused{"", "serves"}}) {
    const pikv::Status status = pikv::engine_dtype(refused.name).status();
    CAPTURE(status.to_string());
    CHECK(status.code() == ErrorCode::kUnsupported);
    CHECK(status.message().find("'" + std::string(refused.name) + "'") != std::string_view::npos);
    CHECK(status.message().find(refused.word) != std::string_view::npos);
  }
}

TEST_CASE("padding slots are not written") {
  std::vector<pikv::Slot> slots{5, 0, pikv::kSkipSlot, 15, 16};
  pikv::skip_padding_slots(slots);
  CHECK(slots == std::vector<pikv::Slot>{5, -1, -1, 15, 16});
  pikv::skip_padding_slots(slots, 16);  // a first page of 16
  CHECK(slots == std::vector<pikv::Slot>{-1, -1, -1, -1, 16});
  pikv::skip_padding_slots({});
}

}  // namespace
