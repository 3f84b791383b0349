// What a ChunkWriter holds.
#pragma once

#include <memory>
#include <utility>

#include "store_core.hpp"

namespace pikv {
inline namespace v0 {

struct ChunkWriter::Impl {
  Impl(std::shared_ptr<detail::StoreCore> core_, const ChunkKey& key_) : core(std::move(core_)), key(key_) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl();

  const std::shared_ptr<detail::StoreCore> core;
  const ChunkKey key;
  InsertOutcome outcome = InsertOutcome::kInProgress;
  detail::WorkId id = 0;          // of the registration that publishing or abandoning ends; 0 when there is none
  detail::StoredChunkPtr stored;  // from begin_insert() to commit(), for kInserted
  ChunkHandle existing;
};

}  // namespace v0
}  // namespace pikv
