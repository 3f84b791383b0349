// A prompt as segments (Prompt), and what is to be done about each of its rows (CompositionPlan).
//
// A row is one token of the prompt; its position is its index. A plan says for every row whether it is copied from a
// stored chunk or computed by the engine, and what can be said about its correctness. Plans are immutable, validated
// values: they name chunks by key, touch no memory, and can be built and tested without a device.
//
//   pikv::Prompt prompt;
//   prompt.add_fresh(system_tokens);
//   prompt.add_chunk(document_tokens, pikv::ChunkRecipe::alone());
//   prompt.add_fresh(question_tokens);
//
// Thread-safety: values; const access from several threads is safe.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "pikv/chunk_key.hpp"
#include "pikv/geometry.hpp"
#include "pikv/status.hpp"
#include "pikv/store.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// What is known of a row's K and V, compared with computing the whole prompt.
enum class Provenance : std::uint8_t {
  kExactPrefix,   ///< stored from this very context: equal
  kExactSegment,  ///< stored from a context that happens to be this one (a chunk alone at the start): equal
  kApproximate,   ///< encoded without the text that now stands before it, or stored in a lossy format
  kRepaired,      ///< reused, but this row is recomputed with full attention
  kFresh,         ///< computed by the engine
};
[[nodiscard]] PIKV_API const char* provenance_name(Provenance provenance) noexcept;

/// The position that a chunk's first key is turned to. Anything but kInPlace reproduces what systems without position
/// correction do; it exists for measurements and marks the rows approximate.
class Anchor {
 public:
  /// At the row where the chunk stands.
  [[nodiscard]] static constexpr Anchor in_place() noexcept { return Anchor(kInPlace); }
  /// At `first`, wherever the chunk stands. Composer::plan() refuses one at which the chunk would leave the table.
  [[nodiscard]] static constexpr Anchor at(Position first) noexcept { return Anchor(first); }

  [[nodiscard]] constexpr bool is_in_place() const noexcept { return first_ == kInPlace; }
  [[nodiscard]] constexpr Position resolve(std::int64_t row) const noexcept {
    return is_in_place() ? static_cast<Position>(row) : first_;
  }

 private:
  static constexpr Position kInPlace = std::numeric_limits<Position>::min();
  explicit constexpr Anchor(Position first) noexcept : first_(first) {}
  Position first_;
};

/// A stretch of a prompt: rows [row_begin, row_end).
struct Segment {
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::optional<ChunkRecipe> recipe{};  ///< of the chunk to reuse; nothing: tokens to compute
  Anchor anchor = Anchor::in_place();
};

/// The prompt as ordered segments; owns its tokens. Empty segments are left out.
class Prompt {
 public:
  PIKV_API void add_fresh(std::span<const TokenId> tokens);
  /// The whole of a chunk of this recipe, which must be position-free: exact prefixes are found, not asked for.
  PIKV_API void add_chunk(std::span<const TokenId> tokens, const ChunkRecipe& recipe,
                          Anchor anchor = Anchor::in_place());

  [[nodiscard]] std::span<const TokenId> tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::span<const Segment> segments() const noexcept { return segments_; }
  [[nodiscard]] std::int64_t num_rows() const noexcept { return static_cast<std::int64_t>(tokens_.size()); }

 private:
  std::vector<TokenId> tokens_;
  std::vector<Segment> segments_;
};

/// Consecutive rows with one source.
struct PlanPiece {
  enum class Source : std::uint8_t { kCompute, kExactPrefix, kChunk };

  Source source = Source::kCompute;
  Provenance provenance = Provenance::kFresh;
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  // Of cached pieces:
  ChunkKey key{};
  std::int64_t chunk_first_token = 0;  ///< which token of the chunk stands in row_begin
  std::int64_t chunk_num_tokens = 0;   ///< of the whole chunk
  Position first_position = 0;         ///< that the key of row_begin is turned to
  // Of computed pieces:
  MissReason miss = MissReason::kNone;  ///< why a chunk that was asked for is computed; kNone for fresh tokens

  [[nodiscard]] std::int64_t num_rows() const noexcept { return row_end - row_begin; }
  [[nodiscard]] bool cached() const noexcept { return source != Source::kCompute; }
};

/// Counts over a plan, in tokens and bytes.
struct PlanStats {
  std::int64_t exact_prefix_tokens = 0;
  std::int64_t exact_segment_tokens = 0;
  std::int64_t approximate_tokens = 0;  ///< reused, not repaired
  std::int64_t repaired_tokens = 0;
  std::int64_t fresh_tokens = 0;
  std::int64_t bytes_to_move = 0;  ///< K and V of reused rows in the geometry's dtype, however they are encoded

  [[nodiscard]] std::int64_t reused_tokens() const noexcept {
    return exact_prefix_tokens + exact_segment_tokens + approximate_tokens;
  }
  [[nodiscard]] std::int64_t computed_tokens() const noexcept { return repaired_tokens + fresh_tokens; }
};

/// What will happen to each row of a prompt. Invariants, all checked by create(): pieces cover [0, num_rows()) without
/// gap or overlap; a cached piece lies inside its chunk, the whole of which fits the prompt around it, and its
/// positions inside the table; exact rows stand behind exact rows only; a piece that is exact, or of the exact prefix,
/// is anchored in place; the last row is computed, since the engine needs its output. A piece of the exact prefix has
/// provenance kExactPrefix, or kApproximate when its chunk is stored in a lossy format; such pieces may follow one
/// another.
class CompositionPlan {
 public:
  /// max_positions: of the table that will turn the keys. repaired_rows: rows of approximate pieces to recompute,
  /// ascending. Errors: kInvalidArgument naming the piece and the field.
  [[nodiscard]] static PIKV_API Result<CompositionPlan> create(const KvGeometry& geometry, std::int32_t max_positions,
                                                               std::vector<TokenId> tokens,
                                                               std::vector<PlanPiece> pieces,
                                                               std::vector<std::int32_t> repaired_rows = {});

  [[nodiscard]] std::int64_t num_rows() const noexcept { return static_cast<std::int64_t>(tokens_.size()); }
  [[nodiscard]] std::span<const TokenId> tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::span<const PlanPiece> pieces() const noexcept { return pieces_; }
  /// Rows the engine must compute, ascending: fresh tokens, misses and repaired rows. Never empty.
  [[nodiscard]] std::span<const std::int32_t> rows_to_compute() const noexcept { return rows_to_compute_; }
  [[nodiscard]] std::span<const std::int32_t> repaired_rows() const noexcept { return repaired_rows_; }
  [[nodiscard]] const PlanStats& stats() const noexcept { return stats_; }
  /// Requires: 0 <= row < num_rows().
  [[nodiscard]] PIKV_API Provenance provenance(std::int64_t row) const noexcept;
  /// Rows [0, exact_rows()) will equal full computation once the plan has run; only they may enter a prefix cache.
  [[nodiscard]] std::int64_t exact_rows() const noexcept { return exact_rows_; }

  /// This plan with pieces [piece_indices] computed instead of loaded. reasons: one for each index.
  /// kInvalidArgument for an index that is out of range, named twice or not cached.
  [[nodiscard]] PIKV_API Result<CompositionPlan> without(std::span<const std::size_t> piece_indices,
                                                         std::span<const MissReason> reasons) const;
  /// This plan with pieces [piece_indices] approximate, and with them every exact piece behind the first of them. What
  /// is approximate already stays so. kInvalidArgument for an index that is out of range or not cached.
  [[nodiscard]] PIKV_API Result<CompositionPlan> with_approximate(std::span<const std::size_t> piece_indices) const;
  /// This plan with `rows` of its approximate pieces recomputed, replacing earlier repaired rows.
  [[nodiscard]] PIKV_API Result<CompositionPlan> with_repaired_rows(std::vector<std::int32_t> rows) const;

 private:
  CompositionPlan() = default;

  KvGeometry geometry_;
  std::int32_t max_positions_ = 0;
  std::vector<TokenId> tokens_;
  std::vector<PlanPiece> pieces_;
  std::vector<std::int32_t> repaired_rows_;
  std::vector<std::int32_t> rows_to_compute_;
  PlanStats stats_;
  std::int64_t exact_rows_ = 0;
};

}  // namespace v0
}  // namespace pikv
