// Chunks in a stored format, before or after RoPE, and their way back into the engine's cache; all of it through pikv's
// CPU backend.
//
// Before RoPE it is what pikv does: semantic keys are encoded, and the slab is re-anchored into the pages. After RoPE
// the same encoder gets keys that stand at positions first, first + 1, ...; decoded keys are turned back and then to
// where they go, in fp32, so that nothing but the place of the encoder differs. Where values are kept in bf16, the slab
// is decoded, its values replaced, and the result re-anchored, which gives keys the same bits.
#pragma once

#include <cstdint>
#include <memory>

#include "lab/arm.hpp"
#include "lab/kv_rows.hpp"
#include "mini_engine/model.hpp"
#include "pikv/backend.hpp"

namespace lab {

struct StoredChunk {
  Arm arm;
  std::int64_t num_tokens = 0;
  pikv::Position first = 0;  ///< where the keys stood when they were encoded; kAfterRope alone
  pikv::Buffer slab;
  std::unique_ptr<StoredChunk> bf16;  ///< the chunk in bf16, whose values count; Values::kInBf16 alone
};

/// Not thread-safe. Throws mini_engine::Error with pikv's message when the backend refuses.
class FormatStorage {
 public:
  /// num_threads: 0: all cores.
  FormatStorage(const mini_engine::Model& model, int num_threads);

  [[nodiscard]] const pikv::KvGeometry& geometry() const { return geometry_; }  ///< of KvRows

  /// semantic: keys before rotation.
  [[nodiscard]] StoredChunk store(const KvRows& semantic, const Arm& arm, pikv::Position first) const;
  /// What the chunk still says, keys before rotation.
  [[nodiscard]] KvRows decode(const StoredChunk& chunk) const;
  /// Puts the chunk into rows [first_row, first_row + T) of the sequence, which has them; row = position.
  void place(const StoredChunk& chunk, mini_engine::Sequence& sequence, std::int32_t first_row) const;
  /// The rows with keys turned to first, first + 1, ...
  [[nodiscard]] KvRows turned(const KvRows& semantic, pikv::Position first) const;

 private:
  [[nodiscard]] pikv::KvView view(KvRows& rows) const;
  [[nodiscard]] pikv::ConstKvView view(const KvRows& rows) const;
  [[nodiscard]] pikv::KvGeometry geometry_of(const Arm& arm) const;
  void move(const pikv::KvGeometry& geometry, const pikv::KvRun& run, const pikv::KvView& target,
            const pikv::RopeTableView& rope) const;

  pikv::KvGeometry geometry_;
  pikv::RopeTable table_;
  std::unique_ptr<pikv::Backend> backend_;
};

}  // namespace lab
