// The kinds of serving that are compared.
#pragma once

#include <cstdint>
#include <string>

#include "mini_engine/engine/engine.hpp"
#include "pikv/slab.hpp"

namespace rag_bench {

struct Mode {
  enum class Kind : std::uint8_t { kFull, kExactPrefix, kChunks };
  std::string name;
  Kind kind = Kind::kFull;
  mini_engine::ChunkPlace place = mini_engine::ChunkPlace::kDevice;
  pikv::SlabFormat format = pikv::SlabFormat::kPlain;
  int repaired_rows_per_chunk = 0;
};

/// "full", "prefix", "device", "pinned-bf16" or "pinned-fp8"; the last three may end in "+N", for N repaired rows of
/// every chunk. Throws Error for anything else.
[[nodiscard]] Mode parse_mode(const std::string& text);

}  // namespace rag_bench
