// The smallest complete use of pikv: one document's KV is stored once and then reused in the middle of a prompt.
//
// The part between the two marks below is the example of README.md, word for word; a test compares them.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <span>
#include <vector>

#include "pikv/pikv.hpp"

namespace {

constexpr std::int32_t kPageSize = 16;
constexpr std::int32_t kNumPages = 64;

// Stands in for an inference engine: it has a paged KV cache, a block table for one request, and a forward pass whose
// keys and values are made up.
class Engine {
 public:
  explicit Engine(const pikv::KvGeometry& geometry)
      : geometry_(geometry),
        keys_(static_cast<std::size_t>(geometry.elements_per_token() / 2 * kPageSize * kNumPages)),
        values_(keys_.size()),
        block_table_(kNumPages) {
    std::iota(block_table_.rbegin(), block_table_.rend(), 0);  // any order of pages will do; this one runs backwards
  }

  // Where the engine keeps K and V: bf16 pages [L][P][S][H][D].
  [[nodiscard]] pikv::KvView pages() noexcept {
    return {.layout = pikv::nhd_pages(geometry_, kPageSize, kNumPages),
            .k_base = reinterpret_cast<std::byte*>(keys_.data()),
            .v_base = reinterpret_cast<std::byte*>(values_.data()),
            .num_slots = std::int64_t{kPageSize} * kNumPages};
  }
  // Which slot each of the request's rows has in the cache.
  [[nodiscard]] pikv::SlotMap slots(std::int64_t num_rows) const noexcept {
    return pikv::SlotMap::page_table(block_table_.data(), kPageSize, /*first_token=*/0, num_rows);
  }

  // Runs the model on `tokens` alone and leaves keys before RoPE, and values, in `slab`: [L][K, V][T][H][D].
  void encode(std::span<const pikv::TokenId> tokens, const pikv::KvView& slab) const {
    const std::size_t row =
        static_cast<std::size_t>(geometry_.num_kv_heads) * static_cast<std::size_t>(geometry_.head_dim);
    for (std::int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
      auto* const k = reinterpret_cast<std::uint16_t*>(slab.k_layer(layer));
      auto* const v = reinterpret_cast<std::uint16_t*>(slab.v_layer(layer));
      for (std::size_t i = 0; i < tokens.size() * row; ++i) k[i] = v[i] = made_up_bf16(tokens[i / row] * 31 + i);
    }
  }

 private:
  // One of 257 numbers from -1 to 1, each of which bf16 holds exactly.
  static std::uint16_t made_up_bf16(std::size_t seed) noexcept {
    const float value = static_cast<float>(seed % 257) / 128.0F - 1.0F;
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
  }

  pikv::KvGeometry geometry_;
  std::vector<std::uint16_t> keys_, values_;
  std::vector<std::int32_t> block_table_;
};

// Stands in for a tokenizer.
std::vector<pikv::TokenId> tokens(pikv::TokenId first, std::size_t count) {
  std::vector<pikv::TokenId> result(count);
  std::iota(result.begin(), result.end(), first);
  return result;
}

// A real engine hashes the model's files, and gets the namespace's secret from wherever it keeps secrets.
constexpr pikv::ModelFingerprint kFingerprint{};
constexpr std::array<std::byte, 32> kSecret{};

}  // namespace

int main() {
  const pikv::KvGeometry geometry{.num_layers = 4, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128};
  pikv::RopeConfig rope(500000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
  rope.scaling = pikv::Llama3Scaling{8, 1, 4, 8192};
  const auto table = pikv::RopeTable::build(rope, geometry.rotary_dim, /*num_positions=*/8192).value();

  Engine engine(geometry);
  const std::vector<pikv::TokenId> document = tokens(/*first=*/1000, /*count=*/512);
  const std::vector<pikv::TokenId> instructions = tokens(/*first=*/1, /*count=*/40);
  const std::vector<pikv::TokenId> question = tokens(/*first=*/9000, /*count=*/24);

  // [readme]
  const auto backend = pikv::make_cpu_backend();
  const auto store = pikv::Store::create({.geometry = geometry, .capacity_bytes = 64 << 20}).value();
  const auto keyer = pikv::ChunkKeyer::create({kFingerprint, geometry, rope, "private:acme", kSecret}).value();
  const auto composer = pikv::Composer::create(*store, *backend, keyer, table).value();

  // Once per document: its values and its keys before RoPE go into the store.
  const auto recipe = pikv::ChunkRecipe::alone();
  auto writer = store->begin_insert(keyer.key(recipe, document), recipe, document).value();
  engine.encode(document, writer.view());
  const pikv::ChunkHandle stored = writer.commit().value();

  // Per request: wherever the document stands, its keys are turned to those positions on the way into the pages.
  pikv::Prompt prompt;
  prompt.add_fresh(instructions);
  prompt.add_chunk(document, recipe);
  prompt.add_fresh(question);
  const pikv::Composition composition = composer.compose(prompt).value();
  const auto stream = pikv::StreamRef::legacy_default();
  const pikv::Status placed = composition.place_async(engine.pages(), engine.slots(prompt.num_rows()), stream);
  if (!placed.ok()) throw pikv::BadResult(placed);
  std::cout << composition.plan().stats().reused_tokens() << " rows reused, compute";
  for (const pikv::PlanPiece& piece : composition.plan().pieces())
    if (!piece.cached()) std::cout << " [" << piece.row_begin << ", " << piece.row_end << ")";
  // [/readme]
  std::cout << '\n';
}
