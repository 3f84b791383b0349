#include "chunk_writer.hpp"

#include <new>
#include <utility>

namespace pikv {
inline namespace v0 {

ChunkWriter::Impl::~Impl() {
  stored.reset();  // before the key is free for others, so that they find the room given back
  if (id != 0) core->index().abandon_insert(key, id, outcome == InsertOutcome::kNoRoom);
}

ChunkWriter::ChunkWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChunkWriter::ChunkWriter(ChunkWriter&&) noexcept = default;
ChunkWriter& ChunkWriter::operator=(ChunkWriter&&) noexcept = default;
ChunkWriter::~ChunkWriter() = default;

InsertOutcome ChunkWriter::outcome() const noexcept { return impl_->outcome; }

ChunkHandle ChunkWriter::existing() const noexcept { return impl_->existing; }

SlabView ChunkWriter::slab() noexcept {
  Chunk& chunk = impl_->stored->unpublished();
  return SlabView{chunk.slab_.data(), chunk.num_tokens(), chunk.encoding(), chunk.slab_.space()};
}

KvView ChunkWriter::view() noexcept {
  const SlabView slab = this->slab();
  return slab.encoding.format == SlabFormat::kPlain ? plain_view(impl_->core->geometry(), slab) : KvView{};
}

Result<ChunkHandle> ChunkWriter::commit() {
  if (impl_ == nullptr || impl_->stored == nullptr) {
    return invalid_argument("ChunkWriter: commit() of a writer that has nothing to publish");
  }
  detail::StoreCore& core = *impl_->core;
  // The work that filled the slab is done, and its stream may be gone when the chunk leaves.
  impl_->stored->unpublished().slab_.release_after(StreamRef::legacy_default());
  detail::StoreIndex::Published published;
  try {
    published = core.index().publish_insert(impl_->key, impl_->id, impl_->stored, !core.tiers().empty());
  } catch (const std::bad_alloc&) {
    return out_of_memory("ChunkWriter: no memory for the chunk's index entry");
  }
  impl_->id = 0;
  impl_->stored.reset();
  ChunkHandle chunk = detail::handle_of(std::move(published.chunk));
  if (published.write_to_tier) core.write_to_tier(chunk);
  return chunk;
}

Result<ChunkWriter> Store::begin_insert(const ChunkKey& key, const ChunkRecipe& recipe, std::span<const TokenId> tokens,
                                        StreamRef stream) try {
  if (tokens.empty()) return invalid_argument("Store: begin_insert() of a chunk without tokens");
  std::unique_ptr<ChunkWriter::Impl> writer(new ChunkWriter::Impl(core_, key));

  detail::StoreIndex::InsertStart start = core_->index().begin_insert(key, recipe, tokens);
  writer->outcome = start.outcome;
  writer->id = start.id;
  writer->existing = detail::handle_of(std::move(start.existing));
  start.dropped.reset();
  if (start.outcome != InsertOutcome::kInserted) return ChunkWriter(std::move(writer));

  const std::optional<detail::StoreCore::ChunkSize> size = core_->chunk_size(tokens.size());
  std::optional<detail::Charge> charge = size.has_value() ? core_->make_room(size->footprint_bytes) : std::nullopt;
  if (!charge.has_value()) {
    writer->outcome = InsertOutcome::kNoRoom;
    return ChunkWriter(std::move(writer));
  }
  Result<Buffer> slab = Buffer::allocate(static_cast<std::size_t>(size->slab_bytes), core_->memory(), stream);
  if (!slab.ok()) return slab.status();
  writer->stored = std::make_shared<detail::StoredChunk>(
      nullptr, std::move(*charge),
      Chunk(key, recipe, std::vector<TokenId>(tokens.begin(), tokens.end()), geometry(), std::move(*slab), encoding()));
  return ChunkWriter(std::move(writer));
} catch (const std::bad_alloc&) {
  return out_of_memory("Store: no memory for the bookkeeping of an insert");
}

}  // namespace v0
}  // namespace pikv
