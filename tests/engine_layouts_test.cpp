// Every engine's cache against its own documentation: addresses follow from the order of axes as the engine writes it
// down, multiplied out here and not by the library; then tokens are re-anchored into each and looked for at them.
#include "pikv/engine_layouts.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/detail/half.hpp"
#include "support/guarded_buffer.hpp"

namespace {

using pikv::Axis;
using pikv::CacheForm;
using pikv::DType;
using pikv::ErrorCode;
using pikv::HeadOrder;
using pikv::KvGeometry;
using test_support::GuardedBuffer;

constexpr KvGeometry kSmall{
    .num_layers = 3, .num_kv_heads = 2, .head_dim = 8, .rotary_dim = 6, .dtype = DType::kBFloat16};
constexpr KvGeometry kLlama8B{
    .num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = DType::kBFloat16};

/// How an engine groups tokens, which decides what sizes the tests give it.
enum class Grouping { kPages, kSingleTokens, kFewLongRuns };

struct EngineCase {
  const char* engine;
  const char*
      k_order;  // outermost first; "2" is K and V, "2D" a key and its value in one row, "HD" all heads' channels
  const char* v_order;  // null: K and V share a tensor
  CacheForm form;
  HeadOrder order;
  Grouping grouping;
  DType dtype;
};

using enum CacheForm;
using enum HeadOrder;
using enum Grouping;
constexpr DType kBf16 = DType::kBFloat16;
constexpr DType kF16 = DType::kFloat16;
constexpr DType kF32 = DType::kFloat32;
constexpr DType kFp8 = DType::kFloat8E4M3;

constexpr EngineCase kEngines[] = {
    {"vLLM kv-first NHD", "2,NB,BS,H,D", nullptr, kKvFirst, kNhd, kPages, kBf16},
    {"vLLM kv-first HND", "2,NB,H,BS,D", nullptr, kKvFirst, kHnd, kPages, kBf16},
    {"vLLM kv-first fp8", "2,NB,BS,H,D", nullptr, kKvFirst, kNhd, kPages, kFp8},
    {"vLLM blocks-first NHD", "NB,2,BS,H,D", nullptr, kPagesFirst, kNhd, kPages, kBf16},
    {"vLLM blocks-first HND", "NB,2,H,BS,D", nullptr, kPagesFirst, kHnd, kPages, kF16},
    {"vLLM blocks-first, layers in one tensor", "L,NB,2,BS,H,D", nullptr, kPagesFirst, kNhd, kPages, kBf16},
    {"vLLM packed NHD", "NB,BS,H,2D", nullptr, kPacked, kNhd, kPages, kBf16},
    {"vLLM packed HND", "NB,H,BS,2D", nullptr, kPacked, kHnd, kPages, kBf16},
    {"vLLM packed fp8", "NB,BS,H,2D", nullptr, kPacked, kNhd, kPages, kFp8},
    {"vLLM cross-layer NHD", "NB,L,2,BS,H,D", nullptr, kCrossLayer, kNhd, kPages, kBf16},
    {"vLLM cross-layer HND", "NB,H,L,2,BS,D", nullptr, kCrossLayer, kHnd, kPages, kBf16},
    {"SGLang token pool", "slots,H,D", "slots,H,D", kSeparate, kNhd, kSingleTokens, kBf16},
    {"SGLang token pool fp8", "slots,H,D", "slots,H,D", kSeparate, kNhd, kSingleTokens, kFp8},
    {"FlashInfer pair NHD", "NB,BS,H,D", "NB,BS,H,D", kSeparate, kNhd, kPages, kF16},
    {"FlashInfer pair HND", "NB,H,BS,D", "NB,H,BS,D", kSeparate, kHnd, kPages, kBf16},
    {"FlashInfer pair, layers stacked", "L,NB,H,BS,D", "L,NB,H,BS,D", kSeparate, kHnd, kPages, kBf16},
    {"FlashInfer 5-D NHD", "NB,2,BS,H,D", nullptr, kPagesFirst, kNhd, kPages, kF16},
    {"FlashInfer 5-D HND", "NB,2,H,BS,D", nullptr, kPagesFirst, kHnd, kPages, kBf16},
    {"TensorRT-LLM pool", "NB,L,2,H,BS,D", nullptr, kTensorRtLlmPool, kHnd, kPages, kBf16},
    {"TensorRT-LLM blocks of a layer", "NB,2,H,BS,D", nullptr, kPagesFirst, kHnd, kPages, kF16},
    {"llama.cpp flash attention f16", "NB,BS,HD", "NB,BS,HD", kSeparate, kNhd, kFewLongRuns, kF16},
    {"llama.cpp flash attention bf16", "NB,BS,HD", "NB,BS,HD", kSeparate, kNhd, kFewLongRuns, kBf16},
    {"llama.cpp flash attention f32", "NB,BS,HD", "NB,BS,HD", kSeparate, kNhd, kFewLongRuns, kF32},
    {"llama.cpp transposed V f16", "NB,BS,HD", "NB,HD,BS", kTransposedValues, kNhd, kFewLongRuns, kF16},
    {"llama.cpp transposed V f32", "NB,BS,HD", "NB,HD,BS", kTransposedValues, kNhd, kFewLongRuns, kF32},
    {"Hugging Face DynamicCache", "NB,H,BS,D", "NB,H,BS,D", kSeparate, kHnd, kFewLongRuns, kBf16},
};

std::vector<std::string> split(const std::string& order) {
  std::vector<std::string> names(1);
  for (const char c : order) {
    if (c == ',') {
      names.emplace_back();
    } else {
      names.back().push_back(c);
    }
  }
  return names;
}

struct Sizes {
  KvGeometry geometry;
  std::int32_t page_size;
  std::int64_t num_pages;
  [[nodiscard]] std::int64_t num_slots() const { return page_size * num_pages; }
};

Sizes small_sizes(Grouping grouping) {
  if (grouping == kSingleTokens) return {kSmall, 1, 21};
  return grouping == kPages ? Sizes{kSmall, 4, 5} : Sizes{kSmall, 9, 2};
}

Sizes large_sizes(Grouping grouping) {
  if (grouping == kSingleTokens) return {kLlama8B, 1, 3'200'000};
  return grouping == kPages ? Sizes{kLlama8B, 16, 200'000} : Sizes{kLlama8B, 1'600'000, 2};
}

/// An element of the cache by what it is.
struct Place {
  bool is_value;
  std::int64_t layer, slot, head, d;
};

std::int64_t size_of(const std::string& name, const Sizes& s) {
  const KvGeometry& g = s.geometry;
  if (name == "L") return g.num_layers;
  if (name == "2") return 2;
  if (name == "NB") return s.num_pages;
  if (name == "BS") return s.page_size;
  if (name == "slots") return s.num_slots();
  if (name == "H") return g.num_kv_heads;
  if (name == "D") return g.head_dim;
  if (name == "2D") return 2LL * g.head_dim;
  REQUIRE(name == "HD");
  return std::int64_t{g.num_kv_heads} * g.head_dim;
}

std::int64_t index_of(const std::string& name, const Sizes& s, const Place& p) {
  if (name == "L") return p.layer;
  if (name == "2") return p.is_value ? 1 : 0;
  if (name == "NB") return p.slot / s.page_size;
  if (name == "BS") return p.slot % s.page_size;
  if (name == "slots") return p.slot;
  if (name == "H") return p.head;
  if (name == "D") return p.d;
  if (name == "2D") return p.is_value ? s.geometry.head_dim + p.d : p.d;
  REQUIRE(name == "HD");
  return p.head * s.geometry.head_dim + p.d;
}

/// The tensors of one engine's cache, and where in them each element is.
class Oracle {
 public:
  Oracle(const EngineCase& engine, const Sizes& sizes)
      : sizes_(sizes), k_axes_(split(engine.k_order)), is_joint_(engine.v_order == nullptr) {
    v_axes_ = is_joint_ ? k_axes_ : split(engine.v_order);
    holds_layers_ = std::find(k_axes_.begin(), k_axes_.end(), "L") != k_axes_.end();
  }

  [[nodiscard]] const Sizes& sizes() const { return sizes_; }
  [[nodiscard]] const std::vector<std::string>& k_axes() const { return k_axes_; }
  [[nodiscard]] const std::vector<std::string>& v_axes() const { return v_axes_; }
  [[nodiscard]] bool is_joint() const { return is_joint_; }
  [[nodiscard]] std::size_t num_tensors() const {
    return (is_joint_ ? 1U : 2U) * (holds_layers_ ? 1U : static_cast<std::size_t>(sizes_.geometry.num_layers));
  }
  [[nodiscard]] std::int64_t tensor_elements() const {  // K's and V's have as many
    std::int64_t product = 1;
    for (const std::string& axis : k_axes_) product *= size_of(axis, sizes_);
    return product;
  }
  [[nodiscard]] std::size_t tensor_index(const Place& place) const {
    const std::size_t first = !is_joint_ && place.is_value ? num_tensors() / 2 : 0;
    return first + (holds_layers_ ? 0 : static_cast<std::size_t>(place.layer));
  }
  [[nodiscard]] std::int64_t element(const Place& place) const {
    std::int64_t offset = 0;
    for (const std::string& axis : place.is_value ? v_axes_ : k_axes_) {
      offset = offset * size_of(axis, sizes_) + index_of(axis, sizes_, place);
    }
    return offset;
  }

 private:
  Sizes sizes_;
  std::vector<std::string> k_axes_, v_axes_;
  bool is_joint_;
  bool holds_layers_;
};

/// The axes as a contiguous tensor reports them, in random order: the order of a list of axes says nothing.
std::vector<pikv::CacheAxis> reported_axes(const std::vector<std::string>& names, const Sizes& s,
                                           std::mt19937& random) {
  std::vector<pikv::CacheAxis> axes;
  std::int64_t stride = 1;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const std::int64_t size = size_of(*name, s);
    if (*name == "HD") {  // a dimension that fuses two axes is given as both
      axes.push_back({Axis::kDim, s.geometry.head_dim, stride});
      axes.push_back({Axis::kHead, s.geometry.num_kv_heads, stride * s.geometry.head_dim});
    } else {
      const Axis axis = *name == "L"    ? Axis::kLayer
                        : *name == "2"  ? Axis::kKeyOrValue
                        : *name == "NB" ? Axis::kPage
                        : *name == "H"  ? Axis::kHead
                        : *name == "D"  ? Axis::kDim
                        : *name == "2D" ? Axis::kPackedDim
                                        : Axis::kToken;
      axes.push_back({axis, size, stride});
    }
    stride *= size;
  }
  std::shuffle(axes.begin(), axes.end(), random);
  return axes;
}

enum class Way { kByForm, kByStrides };

pikv::Result<pikv::KvView> make_view(Way way, const EngineCase& engine, const Oracle& oracle,
                                     const pikv::CacheMemory& memory, std::mt19937& random) {
  const Sizes& sizes = oracle.sizes();
  if (way == Way::kByForm) {
    return pikv::engine_view(
        memory,
        {.form = engine.form, .order = engine.order, .page_size = sizes.page_size, .num_pages = sizes.num_pages});
  }
  const std::vector<pikv::CacheAxis> k = reported_axes(oracle.k_axes(), sizes, random);
  const std::vector<pikv::CacheAxis> v = reported_axes(oracle.v_axes(), sizes, random);
  if (oracle.is_joint() || oracle.k_axes() == oracle.v_axes()) return pikv::view_from_strides(memory, k);
  return pikv::view_from_strides(memory, k, v);
}

std::uintptr_t address_in(const pikv::KvView& view, const Place& p) {
  const auto layer = static_cast<std::int32_t>(p.layer);
  const std::byte* const base = p.is_value ? view.v_layer(layer) : view.k_layer(layer);
  const std::int64_t element =
      pikv::element_offset(p.is_value ? view.layout.v : view.layout.k, view.layout.page_size, p.slot,
                           static_cast<std::int32_t>(p.head), static_cast<std::int32_t>(p.d));
  return reinterpret_cast<std::uintptr_t>(base) +
         static_cast<std::uintptr_t>(element * pikv::dtype_bytes(view.layout.dtype));
}

/// Compares the view with the oracle for all of the given slots, heads, ... ; returns the largest offset in bytes.
std::int64_t check_addresses(const EngineCase& engine, const Oracle& oracle, Way way,
                             const std::vector<std::int64_t>& layers, const std::vector<std::int64_t>& slots,
                             const std::vector<std::int64_t>& heads, const std::vector<std::int64_t>& dims) {
  const KvGeometry& geometry = oracle.sizes().geometry;
  std::mt19937 random(7);
  // Nothing is read: tensors stand at made-up addresses, those of later layers lower.
  std::vector<std::byte*> tensors(oracle.num_tensors());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i] = reinterpret_cast<std::byte*>((std::uintptr_t{100} - i) << 40);
  }
  std::vector<std::byte*> bases(2 * static_cast<std::size_t>(geometry.num_layers));
  const float scale = 0.5F;
  const pikv::CacheMemory memory{.geometry = geometry,
                                 .dtype = engine.dtype,
                                 .tensors = tensors,
                                 .layer_bases = bases,
                                 .scales = {.k = &scale, .v = &scale, .layer_stride = 0, .head_stride = 0},
                                 .space = pikv::MemorySpace::kDevice};
  const pikv::Result<pikv::KvView> view = make_view(way, engine, oracle, memory, random);
  REQUIRE_MESSAGE(view.ok(), view.status().to_string());
  CHECK(pikv::validate(pikv::as_const(*view), geometry).ok());
  CHECK(view->num_slots == oracle.sizes().num_slots());
  CHECK(view->layout.dtype == engine.dtype);
  CHECK(view->space == memory.space);
  CHECK(view->scales == memory.scales);
  std::int64_t largest = 0;
  std::int64_t num_wrong = 0;
  for (const bool is_value : {false, true}) {
    for (const std::int64_t layer : layers) {
      for (const std::int64_t slot : slots) {
        for (const std::int64_t head : heads) {
          for (const std::int64_t d : dims) {
            const Place place{is_value, layer, slot, head, d};
            const std::int64_t offset = oracle.element(place) * pikv::dtype_bytes(engine.dtype);
            const std::uintptr_t expected = reinterpret_cast<std::uintptr_t>(tensors[oracle.tensor_index(place)]) +
                                            static_cast<std::uintptr_t>(offset);
            if (address_in(*view, place) != expected) ++num_wrong;
            largest = std::max(largest, offset);
          }
        }
      }
    }
  }
  CHECK(num_wrong == 0);
  return largest;
}

std::vector<std::int64_t> all_below(std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

TEST_CASE("views of engines' caches address what the engines document") {
  for (const EngineCase& engine : kEngines) {
    for (const Way way : {Way::kByForm, Way::kByStrides}) {
      CAPTURE(engine.engine);
      CAPTURE(static_cast<int>(way));
      const Oracle small(engine, small_sizes(engine.grouping));
      check_addresses(engine, small, way, all_below(kSmall.num_layers), all_below(small.sizes().num_slots()),
                      all_below(kSmall.num_kv_heads), all_below(kSmall.head_dim));
      const Oracle large(engine, large_sizes(engine.grouping));
      const std::int64_t end = large.sizes().num_slots();
      const std::int64_t largest = check_addresses(engine, large, way, {0, 1, 31},
                                                   {0, 1, 15, 16, end / 2 - 1, end / 2, end - 1}, {0, 7}, {0, 127});
      CHECK(largest + 1 >= (engine.dtype == kFp8 ? end * 1024 - 1 : std::int64_t{1} << 32));
    }
  }
}

float load(const std::byte* data, DType dtype) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, data, static_cast<std::size_t>(pikv::dtype_bytes(dtype)));
  if (dtype == kF32) return std::bit_cast<float>(bits);
  const auto half = static_cast<std::uint16_t>(bits);
  return dtype == kF16 ? pikv::detail::float16_to_float(half) : pikv::detail::bfloat16_to_float(half);
}

/// Moves random tokens of a slab into the engine's cache and, by the same backend, into a slab of the engine's dtype:
/// each element has to be the same bits at the oracle's address, and no other byte may change.
void check_reanchored(const EngineCase& engine, pikv::Backend& backend, std::mt19937& random) {
  constexpr std::int64_t kTokens = 6;
  const Oracle oracle(engine, small_sizes(engine.grouping));
  const std::int64_t element_bytes = pikv::dtype_bytes(engine.dtype);
  std::vector<std::unique_ptr<GuardedBuffer>> buffers;
  std::vector<std::byte*> tensors;
  for (std::size_t i = 0; i < oracle.num_tensors(); ++i) {
    buffers.push_back(std::make_unique<GuardedBuffer>(oracle.tensor_elements() * element_bytes));
    tensors.push_back(buffers.back()->data());
  }
  std::vector<std::byte*> bases(2 * static_cast<std::size_t>(kSmall.num_layers));
  const pikv::CacheMemory memory{.geometry = kSmall, .dtype = engine.dtype, .tensors = tensors, .layer_bases = bases};
  const pikv::Result<pikv::KvView> target = make_view(Way::kByForm, engine, oracle, memory, random);
  REQUIRE_MESSAGE(target.ok(), target.status().to_string());

  const auto slab_view = [&](GuardedBuffer& buffer, DType dtype) {
    pikv::KvView view{.layout = pikv::slab_layout(kSmall, kTokens), .k_base = buffer.data(), .num_slots = kTokens};
    view.layout.dtype = dtype;
    view.v_base = view.k_base + pikv::slab_value_offset(kSmall, kTokens) * pikv::dtype_bytes(dtype);
    return view;
  };
  GuardedBuffer source(kTokens * kSmall.elements_per_token() * 4);
  std::vector<float> numbers(static_cast<std::size_t>(kTokens * kSmall.elements_per_token()));
  for (float& number : numbers) number = std::uniform_real_distribution<float>(-2, 2)(random);
  std::memcpy(source.data(), numbers.data(), numbers.size() * sizeof(float));
  GuardedBuffer reference(kTokens * kSmall.elements_per_token() * element_bytes);

  // The first token is one that SGLang pads: it must leave its slot, 0, alone.
  std::vector<std::int64_t> slots = all_below(oracle.sizes().num_slots());
  std::shuffle(slots.begin() + 1, slots.end(), random);
  slots.resize(kTokens);
  pikv::skip_padding_slots(slots);
  REQUIRE(slots[0] == pikv::kSkipSlot);
  const std::vector<pikv::Position> positions{0, 63, 5, 1, 40, 7};

  const pikv::RopeConfig rope(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
  const pikv::RopeTable table = pikv::RopeTable::build(rope, kSmall.rotary_dim, 64).value();
  pikv::KvRun run{.source = pikv::as_const(slab_view(source, kF32)),
                  .source_slots = pikv::SlotMap::consecutive(0, kTokens),
                  .target_slots = pikv::SlotMap::per_token(slots.data(), kTokens),
                  .positions = pikv::PositionMap::per_token(positions.data())};
  pikv::KvTransfer transfer{.geometry = kSmall,
                            .runs = {&run, 1},
                            .target = *target,
                            .rope = table.view(),
                            .layer_begin = 0,
                            .layer_end = kSmall.num_layers};
  const pikv::StreamRef stream = pikv::StreamRef::legacy_default();
  pikv::Status status = backend.reanchor_async(transfer, stream);
  REQUIRE_MESSAGE(status.ok(), status.to_string());
  run.target_slots = pikv::SlotMap::consecutive(0, kTokens);
  const pikv::KvView reference_view = slab_view(reference, engine.dtype);
  transfer.target = reference_view;
  status = backend.reanchor_async(transfer, stream);
  REQUIRE_MESSAGE(status.ok(), status.to_string());

  std::vector<std::vector<std::byte>> expected(
      tensors.size(),
      std::vector<std::byte>(static_cast<std::size_t>(buffers[0]->size_bytes()), GuardedBuffer::kPoison));
  for (std::int64_t token = 1; token < kTokens; ++token) {
    for (const bool is_value : {false, true}) {
      for (std::int64_t layer = 0; layer < kSmall.num_layers; ++layer) {
        for (std::int64_t head = 0; head < kSmall.num_kv_heads; ++head) {
          for (std::int64_t d = 0; d < kSmall.head_dim; ++d) {
            const Place place{is_value, layer, slots[static_cast<std::size_t>(token)], head, d};
            // [L][2][T][H][D]
            const std::int64_t index =
                (((layer * 2 + (is_value ? 1 : 0)) * kTokens + token) * kSmall.num_kv_heads + head) * kSmall.head_dim +
                d;
            const std::byte* const bits = reference.data() + index * element_bytes;
            if (is_value || d >= kSmall.rotary_dim) {  // not turned: the source's number, rounded
              CHECK(load(bits, engine.dtype) ==
                    doctest::Approx(static_cast<double>(numbers[static_cast<std::size_t>(index)])).epsilon(0.01));
            }
            std::memcpy(expected[oracle.tensor_index(place)].data() + oracle.element(place) * element_bytes, bits,
                        static_cast<std::size_t>(element_bytes));
          }
        }
      }
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(i);
    CHECK(std::memcmp(tensors[i], expected[i].data(), expected[i].size()) == 0);
    CHECK(buffers[i]->guards_intact());
  }
}

TEST_CASE("re-anchored tokens stand where the engine looks for them") {
  const std::unique_ptr<pikv::Backend> backend = pikv::make_cpu_backend({.num_threads = 1});
  std::mt19937 random(11);
  for (const EngineCase& engine : kEngines) {
    if (engine.dtype == kFp8) continue;
    CAPTURE(engine.engine);
    check_reanchored(engine, *backend, random);
  }
}

TEST_CASE("strides need not be those of a contiguous tensor") {
  // A layer's slice of a cross-layer pool, whose pages are padded too.
  std::vector<std::byte*> bases(2);
  std::byte* const tensor[] = {reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40)};
  KvGeometry geometry = kSmall;
  geometry.num_layers = 1;
  const pikv::CacheAxis axes[] = {{Axis::kPage, 7, 5000},
                                  {Axis::kKeyOrValue, 2, 1000},
                                  {Axis::kToken, 4, 200},
                                  {Axis::kHead, 2, 50},
                                  {Axis::kDim, 8, 3}};
  const pikv::Result<pikv::KvView> view =
      pikv::view_from_strides({.geometry = geometry, .dtype = kBf16, .tensors = tensor, .layer_bases = bases}, axes);
  REQUIRE_MESSAGE(view.ok(), view.status().to_string());
  CHECK(view->num_slots == 28);
  CHECK(address_in(*view, {true, 0, 4 * 6 + 3, 1, 7}) ==
        (std::uintptr_t{1} << 40) + 2 * (6 * 5000 + 1000 + 3 * 200 + 50 + 7 * 3));
}

}  // namespace
