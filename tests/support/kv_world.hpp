// A small model's worth of pikv, with K and V whose every element is known in advance: a store, a backend, a keyer, a
// table, and an engine's cache in which every byte that nobody wrote is still recognisable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pikv/pikv.hpp"

namespace test_support {

/// Three layers of two heads, where only half of the channels rotate.
[[nodiscard]] pikv::KvGeometry small_geometry(pikv::DType dtype = pikv::DType::kBFloat16);

/// An element's bits in `dtype`, rounded to nearest even.
[[nodiscard]] std::uint32_t encode(pikv::DType dtype, float value);
[[nodiscard]] float decode(pikv::DType dtype, std::uint32_t bits);

enum class Side : std::uint8_t { kKey, kValue };

/// Which element of a token's semantic K and V.
struct Element {
  std::int32_t layer = 0;
  Side side = Side::kKey;
  std::int32_t head = 0;
  std::int32_t dim = 0;
};

/// The element of the `token`-th token of the chunk `key`, in [-2, 2), with all the bits of an fp32 in use.
[[nodiscard]] float semantic_value(const pikv::ChunkKey& key, std::int64_t token, const Element& element);

/// Reads and writes one element of a view that lies in host memory.
[[nodiscard]] std::uint32_t read_bits(const pikv::ConstKvView& view, pikv::Slot slot, const Element& element);
void write_bits(const pikv::KvView& view, pikv::Slot slot, const Element& element, std::uint32_t bits);

/// Calls visit(Element) for every element of a token in layers [layer_begin, layer_end).
template <class Visit>
void for_each_element(const pikv::KvGeometry& geometry, std::int32_t layer_begin, std::int32_t layer_end, Visit visit) {
  for (std::int32_t layer = layer_begin; layer < layer_end; ++layer) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      for (std::int32_t head = 0; head < geometry.num_kv_heads; ++head) {
        for (std::int32_t dim = 0; dim < geometry.head_dim; ++dim) visit(Element{layer, side, head, dim});
      }
    }
  }
}

/// Tokens first, first + 1, ...
[[nodiscard]] std::vector<pikv::TokenId> token_run(pikv::TokenId first, std::size_t num_tokens);

struct WorldOptions {
  pikv::DType dtype = pikv::DType::kBFloat16;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  bool dynamic_ntk = false;  ///< frequencies that depend on the length
  std::int32_t num_positions = 256;
  std::int64_t capacity_bytes = std::int64_t{1} << 24;
  std::vector<std::shared_ptr<pikv::Tier>> tiers;
  pikv::ComposerOptions composer{.prefix_block_tokens = 8};
};

class World {
 public:
  explicit World(WorldOptions options = {});

  [[nodiscard]] const pikv::KvGeometry& geometry() const { return keyer_.geometry(); }
  [[nodiscard]] const pikv::ChunkKeyer& keyer() const { return keyer_; }
  [[nodiscard]] const pikv::RopeTable& table() const { return table_; }
  [[nodiscard]] pikv::Backend& backend() { return *backend_; }
  [[nodiscard]] pikv::Store& store() { return *store_; }
  [[nodiscard]] const pikv::Composer& composer() const { return *composer_; }
  [[nodiscard]] pikv::Composer composer_with(const pikv::ComposerOptions& options);

  /// Stores a chunk of semantic_value()s; null when the store declines.
  pikv::ChunkHandle put(const pikv::ChunkRecipe& recipe, std::span<const pikv::TokenId> tokens);
  /// Stores the first `num_blocks` whole blocks of a prompt as exact prefix.
  void put_prefix(std::span<const pikv::TokenId> tokens, std::int64_t num_blocks);
  /// Key of the `index`-th block of a prompt's exact prefix.
  [[nodiscard]] pikv::ChunkKey block_key(std::span<const pikv::TokenId> tokens, std::int64_t index) const;
  /// The recipe of a chunk encoded behind `prefix`.
  [[nodiscard]] pikv::ChunkRecipe behind(std::span<const pikv::TokenId> prefix) const;

 private:
  pikv::ChunkKeyer keyer_;
  pikv::RopeTable table_;
  std::unique_ptr<pikv::Backend> backend_;
  std::unique_ptr<pikv::Store> store_;
  std::optional<pikv::Composer> composer_;
};

/// An engine's cache of its own dtype: K and V apart, each [L][P][S][H][D], or heads before tokens within a page. All
/// bytes are 0xFF, a NaN in every dtype, and both buffers stand between guard bytes.
class EngineCache {
 public:
  enum class Order : std::uint8_t { kTokensOutermost, kHeadsOutermost };
  EngineCache(const pikv::KvGeometry& geometry, pikv::DType dtype, std::int32_t page_size, std::int32_t num_pages,
              Order order = Order::kTokensOutermost);

  [[nodiscard]] pikv::KvView view();
  [[nodiscard]] pikv::ConstKvView view() const;
  [[nodiscard]] std::int32_t page_size() const { return layout_.page_size; }
  [[nodiscard]] bool guards_intact() const;
  friend bool operator==(const EngineCache& a, const EngineCache& b) {
    return a.keys_ == b.keys_ && a.values_ == b.values_;
  }

 private:
  pikv::KvLayout layout_;
  std::int64_t num_slots_;
  std::vector<std::byte> keys_;
  std::vector<std::byte> values_;
};

/// What a slot of the cache has to hold.
struct ExpectedSlot {
  pikv::ChunkKey key{};
  std::int64_t token = 0;
  pikv::Position position = 0;
};

/// Empty when layers [layer_begin, layer_end) of the slots in `expected` (one entry a slot) hold exactly these rows,
/// turned, and everything else in the cache is as it was made; else the first difference.
[[nodiscard]] std::string misplaced(const EngineCache& cache, const World& world,
                                    std::span<const std::optional<ExpectedSlot>> expected, std::int32_t layer_begin,
                                    std::int32_t layer_end);

/// What `plan` puts where: one entry for each of `num_slots` slots.
[[nodiscard]] std::vector<std::optional<ExpectedSlot>> expected_slots(const pikv::CompositionPlan& plan,
                                                                      const pikv::SlotMap& rows,
                                                                      std::int64_t num_slots);

}  // namespace test_support
