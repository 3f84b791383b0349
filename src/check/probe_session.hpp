// A probe in the hands of the check: its passes with exceptions turned to Status, its rows as fp32 on the host, its
// chunks in a store.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pikv/check_model.hpp"
#include "pikv/composer.hpp"
#include "pikv/store.hpp"

namespace pikv {
inline namespace v0 {
namespace check {

enum class Side : std::uint8_t { kKey = 0, kValue = 1 };

/// K and V of some rows as fp32, [L][2][T][H][D].
struct HostRows {
  KvGeometry geometry;
  std::int64_t num_tokens = 0;
  std::vector<float> values;

  /// [D]
  [[nodiscard]] const float* head(std::int32_t layer, Side side, std::int64_t token, std::int32_t head_index) const {
    const std::int64_t row = ((std::int64_t{layer} * 2 + static_cast<int>(side)) * num_tokens + token);
    return values.data() + (row * geometry.num_kv_heads + head_index) * geometry.head_dim;
  }
};

/// Relative difference of two sets of logits: root of the summed squares over that of `expected`. Not a number when
/// either holds one.
[[nodiscard]] double relative_difference(std::span<const float> got, std::span<const float> expected);

/// `count` positions from `first` on.
[[nodiscard]] std::vector<Position> position_run(Position first, std::int64_t count);

/// Not thread-safe; the probe must outlive it.
class ProbeSession {
 public:
  /// Refuses what the probe says of its model when it contradicts itself.
  [[nodiscard]] static Result<std::unique_ptr<ProbeSession>> open(ModelProbe& probe);

  [[nodiscard]] const ProbedModel& model() const noexcept { return model_; }
  /// In host memory.
  [[nodiscard]] const RopeTable& table() const noexcept { return table_; }
  [[nodiscard]] const KvView& cache() const noexcept { return cache_; }

  /// The slots of the new sequence are then those of place(), read_pages() and compute().
  [[nodiscard]] Status begin_sequence(std::int64_t num_rows);
  /// Tokens at `first`, ..., behind rows at the positions `context`; logits of the last `num_logit_rows`, which are all
  /// finite numbers.
  [[nodiscard]] Result<std::vector<float>> compute(std::span<const TokenId> tokens, Position first,
                                                   std::span<const Position> context, std::int64_t num_logit_rows,
                                                   std::span<const std::int32_t> documents = {});
  /// Begins a sequence, computes the tokens alone at `first`, ... and keeps them as a chunk: from the projections where
  /// the engine hands them out, else turned back out of the pages.
  [[nodiscard]] Result<ChunkHandle> encode(std::span<const TokenId> tokens, Position first);

  [[nodiscard]] Result<HostRows> read_chunk(const ChunkHandle& chunk);
  [[nodiscard]] Result<HostRows> read_pages(Position first, std::int64_t count);
  /// The rows as pikv would write them at `positions` into pages of the cache's type, which are left as they are.
  [[nodiscard]] Result<HostRows> turned(const ConstKvView& source, std::int64_t count, Position first);
  /// Rows of the pages turned back, as they would be stored, and turned again, as pages of the cache's type would get
  /// them.
  [[nodiscard]] Result<HostRows> round_trip(Position first, std::int64_t count);

  /// The chunk's rows into the slots of positions `first`, ..., with keys turned to `anchors`, one for each.
  [[nodiscard]] Status place(const ChunkHandle& chunk, Position first, std::span<const Position> anchors);
  /// Chunks that encode() has kept, one after the other from position 0 on, through the composer.
  [[nodiscard]] Status compose(std::span<const std::vector<TokenId>> chunks, std::span<const TokenId> question);

 private:
  ProbeSession(ModelProbe& probe, ProbedModel model, RopeTable table)
      : probe_(probe),
        model_(std::move(model)),
        table_(std::move(table)),
        backend_(probe.backend()),
        stream_(probe.stream()) {}
  [[nodiscard]] Status prepare();
  [[nodiscard]] Result<std::vector<float>> run(const ProbePass& pass);
  [[nodiscard]] Result<KvView> scratch_rows(DType dtype, std::int64_t count, Buffer& owner);
  [[nodiscard]] Result<KvView> turn_back(Position first, std::int64_t count, Buffer& owner);
  [[nodiscard]] Result<HostRows> read(const ConstKvView& source, const SlotMap& slots);
  [[nodiscard]] SlotMap slots_of(Position first, std::int64_t count) const;
  [[nodiscard]] KvTransfer transfer(const KvRun& run, const KvView& target, const RopeTableView& rope) const;
  /// A host array where the backend reads it, kept by `owner`.
  template <class T>
  [[nodiscard]] Result<const T*> reachable(std::span<const T> values, Buffer& owner);

  ModelProbe& probe_;
  ProbedModel model_;
  RopeTable table_;
  Backend& backend_;
  StreamRef stream_;
  std::optional<RopeTable> reachable_table_;
  std::unique_ptr<Store> store_;
  std::optional<ChunkKeyer> keyer_;
  std::optional<Composer> composer_;
  KvView cache_{};
  std::vector<Slot> slots_;
  Buffer slot_memory_;
  const Slot* reachable_slots_ = nullptr;
};

}  // namespace check
}  // namespace v0
}  // namespace pikv
