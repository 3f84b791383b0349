#include "pikv/engine_layouts.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <string>

namespace pikv {
inline namespace v0 {
namespace {

constexpr std::int64_t kMaxInt64 = std::numeric_limits<std::int64_t>::max();
constexpr std::int32_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

struct DTypeName {
  std::string_view name;
  DType dtype;
};
constexpr DTypeName kServedDTypes[] = {
    {"float32", DType::kFloat32},
    {"f32", DType::kFloat32},
    {"float16", DType::kFloat16},
    {"f16", DType::kFloat16},
    {"half", DType::kFloat16},
    {"bfloat16", DType::kBFloat16},
    {"bf16", DType::kBFloat16},
    {"fp8", DType::kFloat8E4M3},
    {"fp8_e4m3", DType::kFloat8E4M3},
    {"float8_e4m3", DType::kFloat8E4M3},
    {"float8_e4m3fn", DType::kFloat8E4M3},
};

struct RefusedDTypes {
  std::string_view part;  // of the name
  const char* reason;
};
// The first that fits is told.
constexpr RefusedDTypes kRefusedDTypes[] = {
    {"e5m2", "of fp8 pikv writes e4m3 alone"},
    {"fnuz", "the fnuz formats have another bias and another NaN than e4m3"},
    {"mla", "a latent cache (MLA) has one row for each token and no heads"},
    {"fp4", "4-bit floats come with a scale for each block of elements, which no stride describes"},
    {"auto", "it stands for the model's own type; name that"},
    {"uint8", "it tells how the elements are held, not their format; name that"},
    {"q",
     "quantised rows are blocks with scales of their own, and llama.cpp may have rotated them by a Hadamard matrix; "
     "use f16, bf16 or f32"},
};

std::string quoted(Axis axis) { return std::string("axis '") + static_cast<char>(axis) + "'"; }

Status refuse(const std::string& what) { return invalid_argument("engine cache: " + what); }

/// The axes of one side, looked up by name.
class Axes {
 public:
  Axes(std::span<const CacheAxis> axes, const char* side) : axes_(axes), side_(side) {}

  [[nodiscard]] const CacheAxis* find(Axis axis) const {
    const auto found = std::find_if(axes_.begin(), axes_.end(), [&](const CacheAxis& a) { return a.axis == axis; });
    return found == axes_.end() ? nullptr : &*found;
  }
  [[nodiscard]] bool has(Axis axis) const { return find(axis) != nullptr; }
  [[nodiscard]] std::int64_t stride(Axis axis) const { return has(axis) ? find(axis)->stride : 0; }
  [[nodiscard]] std::int64_t size(Axis axis) const { return has(axis) ? find(axis)->size : 1; }

  /// Names, sizes, and that what must be there is.
  [[nodiscard]] Status check(const KvGeometry& geometry) const {
    for (std::size_t i = 0; i < axes_.size(); ++i) {
      const CacheAxis& axis = axes_[i];
      if (find(axis.axis) != &axis) return refuse(quoted(axis.axis) + of_side() + " is given twice");
      PIKV_TRY(check_size(axis, geometry));
      if (axis.stride < 0) {
        return refuse(quoted(axis.axis) + of_side() + " has stride " + std::to_string(axis.stride) +
                      ", must not be negative");
      }
    }
    if (!has(Axis::kHead)) {
      return unsupported("engine cache: " + quoted(Axis::kHead) + of_side() +
                         " is missing; a latent cache (MLA), which has one row for each token and no heads, cannot be "
                         "served");
    }
    if (!has(Axis::kToken)) return refuse(quoted(Axis::kToken) + of_side() + " is missing");
    if (has(Axis::kDim) == has(Axis::kPackedDim)) {
      return refuse("of " + quoted(Axis::kDim) + " and " + quoted(Axis::kPackedDim) + of_side() +
                    " exactly one must be given");
    }
    if (has(Axis::kKeyOrValue) && has(Axis::kPackedDim)) {
      return refuse(quoted(Axis::kKeyOrValue) + " and " + quoted(Axis::kPackedDim) + of_side() +
                    " both tell K from V; give one");
    }
    return {};
  }

  /// A pool without pages is addressed by single tokens.
  [[nodiscard]] bool is_paged() const { return has(Axis::kPage); }
  [[nodiscard]] AxisStrides strides() const {
    return {.layer = stride(Axis::kLayer),
            .page = stride(is_paged() ? Axis::kPage : Axis::kToken),
            .token = stride(Axis::kToken),
            .head = stride(Axis::kHead),
            .dim = stride(has(Axis::kDim) ? Axis::kDim : Axis::kPackedDim)};
  }

 private:
  [[nodiscard]] std::string of_side() const { return std::string(" of ") + side_; }

  [[nodiscard]] Status check_size(const CacheAxis& axis, const KvGeometry& geometry) const {
    std::int64_t expected = 0;  // any positive size
    switch (axis.axis) {
      case Axis::kLayer:
        expected = geometry.num_layers;
        break;
      case Axis::kKeyOrValue:
        expected = 2;
        break;
      case Axis::kHead:
        expected = geometry.num_kv_heads;
        break;
      case Axis::kDim:
        expected = geometry.head_dim;
        break;
      case Axis::kPackedDim:
        expected = std::int64_t{2} * geometry.head_dim;
        break;
      case Axis::kPage:
      case Axis::kToken:
        break;
      default:
        return refuse("Axis " + std::to_string(static_cast<int>(axis.axis)) + of_side() + " is not an enumerator");
    }
    const bool fits = expected == 0 ? axis.size > 0 : axis.size == expected;
    if (fits) return {};
    return refuse(quoted(axis.axis) + of_side() + " has size " + std::to_string(axis.size) + ", must be " +
                  (expected == 0 ? "positive" : std::to_string(expected)));
  }

  std::span<const CacheAxis> axes_;
  const char* side_;
};

/// Both sides must count slots alike.
Status check_slots(const Axes& k, const Axes& v) {
  if (k.is_paged() != v.is_paged()) return refuse(quoted(Axis::kPage) + " is given for one of K and V alone");
  for (const Axis axis : {Axis::kPage, Axis::kToken}) {
    if (k.size(axis) != v.size(axis)) {
      return refuse(quoted(axis) + " has size " + std::to_string(k.size(axis)) + " in K and " +
                    std::to_string(v.size(axis)) + " in V");
    }
  }
  if (k.is_paged() && k.size(Axis::kToken) > kMaxInt32) {
    return refuse(quoted(Axis::kToken) + " has size " + std::to_string(k.size(Axis::kToken)) +
                  ", beyond 2^31 - 1 tokens a page");
  }
  if (k.size(Axis::kPage) > kMaxInt64 / k.size(Axis::kToken)) return refuse("pages times tokens exceed 63 bits");
  return {};
}

/// Which tensor holds what.
struct Tensors {
  bool are_apart;    // K and V have tensors of their own
  bool hold_layers;  // each holds all layers

  [[nodiscard]] std::size_t expected(std::size_t num_layers) const {
    return (are_apart ? 2U : 1U) * (hold_layers ? 1U : num_layers);
  }
};

/// By integer arithmetic, because a wrong stride may lead out of the allocation; validate() sees it afterwards.
std::byte* behind(std::byte* base, std::int64_t size_bytes) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(base) + static_cast<std::uintptr_t>(size_bytes));
}

/// Bases of the view; `value_bytes` from a tensor's start to its first value, where it holds both K and V.
Status set_bases(KvView& view, const CacheMemory& memory, const Tensors& tensors, std::int64_t value_bytes) {
  const auto num_layers = static_cast<std::size_t>(memory.geometry.num_layers);
  const std::size_t expected = tensors.expected(num_layers);
  if (memory.tensors.size() != expected) {
    return refuse("tensors has " + std::to_string(memory.tensors.size()) + " entries, must have " +
                  std::to_string(expected));
  }
  const auto null = std::find(memory.tensors.begin(), memory.tensors.end(), nullptr);
  if (null != memory.tensors.end()) {
    return refuse("tensors[" + std::to_string(null - memory.tensors.begin()) + "] is null");
  }
  const std::size_t num_k = tensors.are_apart ? expected / 2 : expected;
  const auto value_base = [&](std::size_t i) {
    return tensors.are_apart ? memory.tensors[num_k + i] : behind(memory.tensors[i], value_bytes);
  };
  if (tensors.hold_layers) {
    view.k_base = memory.tensors[0];
    view.v_base = value_base(0);
    return {};
  }
  if (memory.layer_bases.size() < 2 * num_layers) {
    return refuse("layer_bases has room for " + std::to_string(memory.layer_bases.size()) + " entries, needs " +
                  std::to_string(2 * num_layers));
  }
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    memory.layer_bases[layer] = memory.tensors[layer];
    memory.layer_bases[num_layers + layer] = value_base(layer);
  }
  view.k_layers = memory.layer_bases.data();
  view.v_layers = memory.layer_bases.data() + num_layers;
  return {};
}

/// The axes of a form by their letters, outermost first; null where it has no such order.
struct FormOrders {
  const char* nhd;
  const char* hnd;
  const char* v;  // where not as K
};

Result<FormOrders> orders_of(CacheForm form) {
  switch (form) {
    case CacheForm::kSeparate:
      return FormOrders{"PSHD", "PHSD", nullptr};
    case CacheForm::kKvFirst:
      return FormOrders{"2PSHD", "2PHSD", nullptr};
    case CacheForm::kPagesFirst:
      return FormOrders{"P2SHD", "P2HSD", nullptr};
    case CacheForm::kPacked:
      return FormOrders{"PSHE", "PHSE", nullptr};
    case CacheForm::kCrossLayer:
      return FormOrders{"PL2SHD", "PHL2SD", nullptr};
    case CacheForm::kTensorRtLlmPool:
      return FormOrders{nullptr, "PL2HSD", nullptr};
    case CacheForm::kTransposedValues:
      return FormOrders{"PSHD", nullptr, "PHDS"};
    case CacheForm::kLatent:
      return unsupported("engine cache: a latent cache (MLA) has one row for each token and no keys of heads to turn");
    case CacheForm::kSplitKeys:
      return unsupported(
          "engine cache: keys split along the head dimension ([P,H,D/x,S,x], vLLM v0) have two strides for one axis");
  }
  return refuse("form " + std::to_string(static_cast<int>(form)) + " is not an enumerator of CacheForm");
}

/// A contiguous tensor's axes.
struct ContiguousAxes {
  std::array<CacheAxis, 7> axes{};
  std::size_t num_axes = 0;

  [[nodiscard]] std::span<const CacheAxis> span() const { return {axes.data(), num_axes}; }
};

/// Requires: all sizes positive, and their product times the element size within 63 bits.
ContiguousAxes contiguous_axes(std::string_view order, const KvGeometry& geometry, const EngineLayout& layout) {
  ContiguousAxes result;
  std::int64_t stride = 1;
  for (auto letter = order.rbegin(); letter != order.rend(); ++letter) {
    const auto axis = static_cast<Axis>(*letter);
    const std::int64_t size = axis == Axis::kLayer        ? geometry.num_layers
                              : axis == Axis::kKeyOrValue ? 2
                              : axis == Axis::kPage       ? layout.num_pages
                              : axis == Axis::kToken      ? layout.page_size
                              : axis == Axis::kHead       ? geometry.num_kv_heads
                              : axis == Axis::kDim        ? geometry.head_dim
                                                          : std::int64_t{2} * geometry.head_dim;
    result.axes[result.num_axes++] = {axis, size, stride};
    stride *= size;
  }
  return result;
}

}  // namespace

Result<DType> engine_dtype(std::string_view name) {
  constexpr std::string_view kTorch = "torch.";
  const std::string_view bare = name.starts_with(kTorch) ? name.substr(kTorch.size()) : name;
  for (const DTypeName& served : kServedDTypes) {
    if (bare == served.name) return served.dtype;
  }
  const std::string what = "engine cache: dtype '" + std::string(name) + "' cannot be served: ";
  for (const RefusedDTypes& refused : kRefusedDTypes) {
    if (bare.find(refused.part) != std::string_view::npos) return unsupported(what + refused.reason);
  }
  return unsupported(what + "pikv serves float32, float16, bfloat16 and fp8 e4m3");
}

Result<KvView> view_from_strides(const CacheMemory& memory, std::span<const CacheAxis> axes,
                                 std::span<const CacheAxis> v_axes) {
  PIKV_TRY(validate(memory.geometry));
  const bool is_like_k = v_axes.empty();
  const Axes k(axes, is_like_k ? "the cache" : "K");
  const Axes v(is_like_k ? axes : v_axes, is_like_k ? "the cache" : "V");
  PIKV_TRY(k.check(memory.geometry));
  PIKV_TRY(v.check(memory.geometry));
  PIKV_TRY(check_slots(k, v));
  const bool is_joint = k.has(Axis::kKeyOrValue) || k.has(Axis::kPackedDim);
  const bool v_is_joint = v.has(Axis::kKeyOrValue) || v.has(Axis::kPackedDim);
  if (!is_like_k && (is_joint || v_is_joint)) {
    return refuse("axes of V are given, but a tensor that holds both K and V has one set of axes");
  }
  if (k.has(Axis::kLayer) != v.has(Axis::kLayer)) {
    return refuse(quoted(Axis::kLayer) + " is given for one of K and V alone");
  }

  KvView view;
  view.layout = {.dtype = memory.dtype,
                 .page_size = k.is_paged() ? static_cast<std::int32_t>(k.size(Axis::kToken)) : 1,
                 .k = k.strides(),
                 .v = v.strides()};
  view.num_slots = k.size(Axis::kPage) * k.size(Axis::kToken);
  view.space = memory.space;
  view.scales = memory.scales;
  std::int64_t to_value = 0;
  if (is_joint) {
    const Axis axis = k.has(Axis::kPackedDim) ? Axis::kPackedDim : Axis::kKeyOrValue;
    const std::int64_t steps = axis == Axis::kPackedDim ? memory.geometry.head_dim : 1;
    if (k.stride(axis) > kMaxInt64 / (steps * dtype_bytes(memory.dtype))) {
      return refuse(quoted(axis) + " has stride " + std::to_string(k.stride(axis)) +
                    ", which exceeds 63 bits in bytes");
    }
    to_value = k.stride(axis) * steps;
  }
  const Tensors tensors{.are_apart = !is_joint, .hold_layers = k.has(Axis::kLayer)};
  PIKV_TRY(set_bases(view, memory, tensors, to_value * dtype_bytes(memory.dtype)));
  PIKV_TRY(validate(pikv::as_const(view), memory.geometry));
  return view;
}

Result<KvView> engine_view(const CacheMemory& memory, const EngineLayout& layout) {
  const Result<FormOrders> orders = orders_of(layout.form);
  if (!orders.ok()) return orders.status();
  if (layout.order != HeadOrder::kNhd && layout.order != HeadOrder::kHnd) {
    return refuse("order " + std::to_string(static_cast<int>(layout.order)) + " is not an enumerator of HeadOrder");
  }
  const bool is_nhd = layout.order == HeadOrder::kNhd;
  const char* const letters = is_nhd ? orders->nhd : orders->hnd;
  if (letters == nullptr) {
    return unsupported(std::string("engine cache: this form is ") + (is_nhd ? "HND" : "NHD") + " alone");
  }
  const KvGeometry& geometry = memory.geometry;
  PIKV_TRY(validate(geometry));
  if (layout.page_size <= 0) {
    return refuse("page_size is " + std::to_string(layout.page_size) + ", must be positive");
  }
  if (layout.num_pages <= 0) {
    return refuse("num_pages is " + std::to_string(layout.num_pages) + ", must be positive");
  }
  constexpr std::int64_t kMaxElementBytes = 4;
  if (layout.num_pages > kMaxInt64 / kMaxElementBytes / geometry.elements_per_token() / layout.page_size) {
    return refuse("num_pages is " + std::to_string(layout.num_pages) +
                  ", with which the cache exceeds 63 bits of bytes");
  }

  std::string order = letters;
  std::string v_order = orders->v == nullptr ? "" : orders->v;
  const std::size_t num_sides = order.find_first_of("2E") == std::string::npos ? 2 : 1;
  if (memory.tensors.size() == num_sides && order.find('L') == std::string::npos) {
    order.insert(0, "L");
    if (!v_order.empty()) v_order.insert(0, "L");
  }
  const ContiguousAxes axes = contiguous_axes(order, geometry, layout);
  const ContiguousAxes v_axes = contiguous_axes(v_order, geometry, layout);
  return view_from_strides(memory, axes.span(), v_axes.span());
}

void skip_padding_slots(std::span<Slot> slots, Slot num_padding_slots) noexcept {
  std::replace_if(
      slots.begin(), slots.end(), [&](Slot slot) { return slot >= 0 && slot < num_padding_slots; }, kSkipSlot);
}

}  // namespace v0
}  // namespace pikv
