#include "support/kv_world.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "pikv/detail/half.hpp"
#include "pikv/detail/rotate.hpp"

namespace test_support {
namespace {

constexpr std::byte kPoison{0xFF};
constexpr std::byte kGuard{0xA5};
constexpr std::size_t kGuardBytes = 64;

std::uint64_t mix(std::uint64_t state) {
  state += 0x9E3779B97F4A7C15U;
  state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9U;
  state = (state ^ (state >> 27)) * 0x94D049BB133111EBU;
  return state ^ (state >> 31);
}

template <class Byte>
Byte* address(const pikv::BasicKvView<Byte>& view, pikv::Slot slot, const Element& element) {
  const bool is_key = element.side == Side::kKey;
  const pikv::AxisStrides& strides = is_key ? view.layout.k : view.layout.v;
  Byte* const base = is_key ? view.k_layer(element.layer) : view.v_layer(element.layer);
  return base + pikv::element_offset(strides, view.layout.page_size, slot, element.head, element.dim) *
                    pikv::dtype_bytes(view.layout.dtype);
}

pikv::RopeConfig make_rope(const WorldOptions& options) {
  pikv::RopeConfig rope(10000.0, options.pairing, pikv::AngleRule::kFp32Product);
  if (options.dynamic_ntk) rope.scaling = pikv::DynamicNtkScaling{.factor = 2, .original_max_positions = 64};
  return rope;
}

pikv::ChunkKeyer make_keyer(const WorldOptions& options) {
  static constexpr std::byte kSecret[32] = {std::byte{7}};
  return pikv::ChunkKeyer::create({.model = {},
                                   .geometry = small_geometry(options.dtype),
                                   .rope = make_rope(options),
                                   .name_space = "private:test",
                                   .secret = kSecret})
      .value();
}

/// The key's element after turning, as fp32; `semantic` gives the elements that the store holds.
template <class Semantic>
float turned_key(const pikv::RopeTableView& table, pikv::Position position, std::int32_t dim, Semantic semantic) {
  if (dim >= 2 * table.half_dim) return semantic(dim);
  const bool half_split = table.pairing == pikv::Pairing::kHalfSplit;
  const std::int32_t pair = half_split ? dim % table.half_dim : dim / 2;
  const std::int32_t first = half_split ? pair : 2 * pair;
  const std::int32_t second = half_split ? pair + table.half_dim : 2 * pair + 1;
  const pikv::detail::RotatedPair rotated =
      pikv::detail::rotate(semantic(first), semantic(second), table.cos(position)[pair], table.sin(position)[pair]);
  return dim == first ? rotated.first : rotated.second;
}

}  // namespace

pikv::KvGeometry small_geometry(pikv::DType dtype) {
  return {.num_layers = 3, .num_kv_heads = 2, .head_dim = 16, .rotary_dim = 8, .dtype = dtype};
}

std::uint32_t encode(pikv::DType dtype, float value) {
  switch (dtype) {
    case pikv::DType::kFloat32:
      return std::bit_cast<std::uint32_t>(value);
    case pikv::DType::kFloat16:
      return pikv::detail::float_to_float16(value);
    case pikv::DType::kBFloat16:
      return pikv::detail::float_to_bfloat16(value);
    case pikv::DType::kFloat8E4M3:
      break;
  }
  throw std::invalid_argument("encode: no such dtype");
}

float decode(pikv::DType dtype, std::uint32_t bits) {
  switch (dtype) {
    case pikv::DType::kFloat32:
      return std::bit_cast<float>(bits);
    case pikv::DType::kFloat16:
      return pikv::detail::float16_to_float(static_cast<std::uint16_t>(bits));
    case pikv::DType::kBFloat16:
      return pikv::detail::bfloat16_to_float(static_cast<std::uint16_t>(bits));
    case pikv::DType::kFloat8E4M3:
      break;
  }
  throw std::invalid_argument("decode: no such dtype");
}

float semantic_value(const pikv::ChunkKey& key, std::int64_t token, const Element& element) {
  std::uint64_t state = pikv::ChunkKeyHash()(key);
  state = mix(state ^ static_cast<std::uint64_t>(token));
  state = mix(state ^ static_cast<std::uint64_t>(element.layer));
  state = mix(state ^ static_cast<std::uint64_t>(element.side));
  state = mix(state ^ static_cast<std::uint64_t>(element.head));
  state = mix(state ^ static_cast<std::uint64_t>(element.dim));
  return static_cast<float>(state >> 40) * 0x1p-22F - 2.0F;
}

std::uint32_t read_bits(const pikv::ConstKvView& view, pikv::Slot slot, const Element& element) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, address(view, slot, element), static_cast<std::size_t>(pikv::dtype_bytes(view.layout.dtype)));
  return bits;
}

void write_bits(const pikv::KvView& view, pikv::Slot slot, const Element& element, std::uint32_t bits) {
  std::memcpy(address(view, slot, element), &bits, static_cast<std::size_t>(pikv::dtype_bytes(view.layout.dtype)));
}

std::vector<pikv::TokenId> token_run(pikv::TokenId first, std::size_t num_tokens) {
  std::vector<pikv::TokenId> tokens(num_tokens);
  for (std::size_t i = 0; i < num_tokens; ++i) tokens[i] = first + static_cast<pikv::TokenId>(i);
  return tokens;
}

World::World(WorldOptions options)
    : keyer_(make_keyer(options)),
      table_(pikv::RopeTable::build(keyer_.rope(), keyer_.geometry().rotary_dim, options.num_positions).value()),
      backend_(pikv::make_cpu_backend({.num_threads = 1})),
      store_(pikv::Store::create({.geometry = keyer_.geometry(),
                                  .capacity_bytes = options.capacity_bytes,
                                  .tiers = std::move(options.tiers)})
                 .value()) {
  composer_.emplace(composer_with(options.composer));
}

pikv::Composer World::composer_with(const pikv::ComposerOptions& options) {
  return pikv::Composer::create(*store_, *backend_, keyer_, table_, options).value();
}

pikv::ChunkHandle World::put(const pikv::ChunkRecipe& recipe, std::span<const pikv::TokenId> tokens) {
  const pikv::ChunkKey key = keyer_.key(recipe, tokens);
  pikv::ChunkWriter writer = store_->begin_insert(key, recipe, tokens).value();
  if (writer.outcome() == pikv::InsertOutcome::kAlreadyPresent) return writer.existing();
  if (writer.outcome() != pikv::InsertOutcome::kInserted) return nullptr;
  const pikv::KvView slab = writer.view();
  for (std::int64_t token = 0; token < static_cast<std::int64_t>(tokens.size()); ++token) {
    for_each_element(geometry(), 0, geometry().num_layers, [&](const Element& element) {
      write_bits(slab, token, element, encode(geometry().dtype, semantic_value(key, token, element)));
    });
  }
  return writer.commit().value();
}

void World::put_prefix(std::span<const pikv::TokenId> tokens, std::int64_t num_blocks) {
  const auto block_tokens = static_cast<std::size_t>(composer_->options().prefix_block_tokens);
  pikv::ContextDigest context = keyer_.empty_context();
  for (std::size_t i = 0; i < static_cast<std::size_t>(num_blocks); ++i) {
    const auto block = tokens.subspan(i * block_tokens, block_tokens);
    if (put(pikv::ChunkRecipe::exact_context(context), block) == nullptr)
      throw std::runtime_error("no room for a block");
    context = keyer_.extend(context, block);
  }
}

pikv::ChunkKey World::block_key(std::span<const pikv::TokenId> tokens, std::int64_t index) const {
  const auto block_tokens = static_cast<std::size_t>(composer_->options().prefix_block_tokens);
  pikv::ContextDigest context = keyer_.empty_context();
  for (std::size_t i = 0; i < static_cast<std::size_t>(index); ++i) {
    context = keyer_.extend(context, tokens.subspan(i * block_tokens, block_tokens));
  }
  return keyer_.key(pikv::ChunkRecipe::exact_context(context),
                    tokens.subspan(static_cast<std::size_t>(index) * block_tokens, block_tokens));
}

pikv::ChunkRecipe World::behind(std::span<const pikv::TokenId> prefix) const {
  return pikv::ChunkRecipe::behind_prefix(keyer_.extend(keyer_.empty_context(), prefix));
}

EngineCache::EngineCache(const pikv::KvGeometry& geometry, pikv::DType dtype, std::int32_t page_size,
                         std::int32_t num_pages, Order order)
    : layout_(order == Order::kTokensOutermost ? pikv::nhd_pages(geometry, page_size, num_pages)
                                               : pikv::hnd_pages(geometry, page_size, num_pages)),
      num_slots_(std::int64_t{page_size} * num_pages) {
  layout_.dtype = dtype;
  const auto side_bytes =
      static_cast<std::size_t>(num_slots_ * geometry.elements_per_token() / 2 * pikv::dtype_bytes(dtype));
  for (std::vector<std::byte>* side : {&keys_, &values_}) {
    side->assign(kGuardBytes, kGuard);
    side->insert(side->end(), side_bytes, kPoison);
    side->insert(side->end(), kGuardBytes, kGuard);
  }
}

pikv::KvView EngineCache::view() {
  return pikv::KvView{.layout = layout_,
                      .k_base = keys_.data() + kGuardBytes,
                      .v_base = values_.data() + kGuardBytes,
                      .num_slots = num_slots_};
}

pikv::ConstKvView EngineCache::view() const {
  return pikv::ConstKvView{.layout = layout_,
                           .k_base = keys_.data() + kGuardBytes,
                           .v_base = values_.data() + kGuardBytes,
                           .num_slots = num_slots_};
}

bool EngineCache::guards_intact() const {
  const auto is_guard = [](std::byte byte) { return byte == kGuard; };
  return std::ranges::all_of(std::array{&keys_, &values_}, [&](const std::vector<std::byte>* side) {
    return std::all_of(side->begin(), side->begin() + kGuardBytes, is_guard) &&
           std::all_of(side->end() - kGuardBytes, side->end(), is_guard);
  });
}

std::string misplaced(const EngineCache& cache, const World& world,
                      std::span<const std::optional<ExpectedSlot>> expected, std::int32_t layer_begin,
                      std::int32_t layer_end) {
  if (!cache.guards_intact()) return "guard bytes overwritten";
  const pikv::ConstKvView view = cache.view();
  const pikv::DType store_dtype = world.geometry().dtype;
  const std::uint32_t poison = view.layout.dtype == pikv::DType::kFloat32 ? 0xFFFFFFFFU : 0xFFFFU;
  std::string problem;
  for (std::size_t slot = 0; slot < expected.size(); ++slot) {
    const std::optional<ExpectedSlot>& row = expected[slot];
    for_each_element(world.geometry(), 0, world.geometry().num_layers, [&](const Element& element) {
      std::uint32_t wanted = poison;
      if (row.has_value() && element.layer >= layer_begin && element.layer < layer_end) {
        const auto semantic = [&](std::int32_t dim) {
          const Element source{element.layer, element.side, element.head, dim};
          return decode(store_dtype, encode(store_dtype, semantic_value(row->key, row->token, source)));
        };
        wanted =
            encode(view.layout.dtype, element.side == Side::kValue
                                          ? semantic(element.dim)
                                          : turned_key(world.table().view(), row->position, element.dim, semantic));
      }
      const std::uint32_t found = read_bits(view, static_cast<pikv::Slot>(slot), element);
      if (found == wanted || !problem.empty()) return;
      problem = "slot " + std::to_string(slot) + " layer " + std::to_string(element.layer) +
                (element.side == Side::kKey ? " key" : " value") + " head " + std::to_string(element.head) + " dim " +
                std::to_string(element.dim) + ": " + std::to_string(found) + " instead of " + std::to_string(wanted);
    });
  }
  return problem;
}

std::vector<std::optional<ExpectedSlot>> expected_slots(const pikv::CompositionPlan& plan, const pikv::SlotMap& rows,
                                                        std::int64_t num_slots) {
  std::vector<std::optional<ExpectedSlot>> expected(static_cast<std::size_t>(num_slots));
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    if (!piece.cached()) continue;
    for (std::int64_t i = 0; i < piece.num_rows(); ++i) {
      const pikv::Slot slot = rows.slot(piece.row_begin + i);
      if (slot == pikv::kSkipSlot) continue;
      expected[static_cast<std::size_t>(slot)] =
          ExpectedSlot{.key = piece.key,
                       .token = piece.chunk_first_token + i,
                       .position = static_cast<pikv::Position>(piece.first_position + i)};
    }
  }
  return expected;
}

}  // namespace test_support
