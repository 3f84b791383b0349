#include "cpu/mover.hpp"

#include <algorithm>
#include <optional>

#include "cpu/decode_rows.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

/// Tokens decoded, moved and encoded together: their rows of fp32 stay in the second-level cache.
constexpr std::size_t kStagedTokens = 16;

/// The tokens [begin, end) of a run that are not left out.
void resolve(const KvRun& run, bool turns, std::int64_t begin, std::int64_t end, TokenBlock& block) noexcept {
  for (std::int64_t token = begin; token < end; ++token) {
    const Slot target = run.target_slots.slot(token);
    if (target == kSkipSlot) continue;
    const std::size_t i = block.num_tokens++;
    block.source[i] = run.source_slots.slot(token);
    block.target[i] = target;
    block.position[i] = turns ? run.positions.position(token) : 0;
  }
}

template <class Byte>
Plane<Byte> plane_of(const BasicKvView<Byte>& view, Side side, std::int32_t layer) noexcept {
  return side == Side::kKey ? Plane<Byte>(view.k_layer(layer), view.layout.k, view.layout)
                            : Plane<Byte>(view.v_layer(layer), view.layout.v, view.layout);
}

/// Rows of fp32, one after the other, as a plane whose slots are the rows.
template <class Byte>
Plane<Byte> rows_plane(Byte* rows, const KvGeometry& geometry) noexcept {
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  const AxisStrides strides{.layer = 0, .page = row, .token = row, .head = geometry.head_dim, .dim = 1};
  return Plane<Byte>(rows, strides, KvLayout{.dtype = DType::kFloat32, .page_size = 1, .k = strides, .v = strides});
}

bool is_encoded_slab(const KvRun& run) noexcept {
  return run.slab.data != nullptr && run.slab.encoding.format != SlabFormat::kPlain;
}

/// What a run without an encoded slab reads.
ConstKvView source_view(const KvRun& run, const KvGeometry& geometry) noexcept {
  return run.slab.data != nullptr ? plain_view(geometry, run.slab) : run.source;
}

bool is_float8(const KvLayout& layout) noexcept { return layout.dtype == DType::kFloat8E4M3; }

bool is_staged(const KvRun& run, const KvTransfer& transfer) noexcept {
  return is_float8(transfer.target.layout) || is_encoded_slab(run) ||
         is_float8(source_view(run, transfer.geometry).layout);
}

bool has_strided_channels(const KvLayout& layout) noexcept { return layout.k.dim != 1 || layout.v.dim != 1; }

void decode_view_row(const SourcePlane& plane, Slot slot, const KvScales& scales, Side side, std::int32_t layer,
                     const KvGeometry& geometry, float* row) noexcept {
  const std::byte* codes = plane.token(slot);
  for (std::int32_t head = 0; head < geometry.num_kv_heads; ++head) {
    decode_float8_row(codes, view_scale(scales, side, layer, head), geometry.head_dim, row);
    codes += plane.head_bytes;
    row += geometry.head_dim;
  }
}

void encode_view_row(const float* row, const TargetPlane& plane, Slot slot, const KvScales& scales, Side side,
                     std::int32_t layer, const KvGeometry& geometry) noexcept {
  std::byte* codes = plane.token(slot);
  for (std::int32_t head = 0; head < geometry.num_kv_heads; ++head) {
    encode_float8_row(row, view_scale(scales, side, layer, head), geometry.head_dim, codes);
    codes += plane.head_bytes;
    row += geometry.head_dim;
  }
}

}  // namespace

Mover::Mover(const KvTransfer& transfer, Direction direction, const RowKernels& kernels, std::int64_t stream_from_bytes)
    : transfer_(transfer), kernels_(kernels), direction_(direction) {
  const KvGeometry& geometry = transfer.geometry;
  std::int64_t num_tokens = 0;
  bool needs_tiles = has_strided_channels(transfer.target.layout);
  bool needs_stages = false;
  block_ends_.reserve(transfer.runs.size());
  for (const KvRun& run : transfer.runs) {
    const std::int64_t run_tokens = run.target_slots.num_tokens();
    num_tokens += run_tokens;
    blocks_per_layer_ += (run_tokens + std::int64_t{kBlockTokens} - 1) / std::int64_t{kBlockTokens};
    block_ends_.push_back(blocks_per_layer_);
    if (run_tokens == 0) continue;
    needs_tiles = needs_tiles || (run.slab.data == nullptr && has_strided_channels(run.source.layout));
    needs_stages = needs_stages || is_staged(run, transfer);
  }
  const std::int64_t num_layers = transfer.layer_end - transfer.layer_begin;
  num_tasks_ = blocks_per_layer_ * num_layers;
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  num_bytes_ = 2 * row * num_layers * num_tokens * dtype_bytes(transfer.target.layout.dtype);
  if (num_bytes_ >= stream_from_bytes) stores_ = Stores::kMayStream;
  if (needs_tiles) scratch_bytes_ += BlockMove::scratch_bytes(geometry);
  if (needs_stages) {
    const std::int64_t rows = 2 * std::int64_t{kStagedTokens} * row;
    scratch_bytes_ += (rows + SlabRows::scratch_elements(geometry)) * std::int64_t{sizeof(float)};
  }
}

void Mover::run(std::int64_t task_index, std::byte* scratch) const noexcept {
  const std::int32_t layer = transfer_.layer_begin + static_cast<std::int32_t>(task_index / blocks_per_layer_);
  const std::int64_t block_index = task_index % blocks_per_layer_;
  const auto run_end = std::upper_bound(block_ends_.begin(), block_ends_.end(), block_index);
  const KvRun& run = transfer_.runs[static_cast<std::size_t>(run_end - block_ends_.begin())];
  const std::int64_t first_block = run_end == block_ends_.begin() ? 0 : *(run_end - 1);
  constexpr auto kTaskTokens = std::int64_t{kBlockTokens};
  const std::int64_t begin = (block_index - first_block) * kTaskTokens;
  TokenBlock block;
  resolve(run, transfer_.rope.turns(), begin, std::min(begin + kTaskTokens, run.target_slots.num_tokens()), block);
  if (is_staged(run, transfer_)) {
    move_by_stages(run, layer, block, scratch);
  } else {
    move_directly(source_view(run, transfer_.geometry), layer, block, scratch);
  }
  if (stores_ == Stores::kMayStream) kernels_.finish_streaming();
}

void Mover::move_directly(const ConstKvView& source, std::int32_t layer, const TokenBlock& block,
                          std::byte* scratch) const noexcept {
  BlockMove move(transfer_, kernels_, direction_, stores_, block, scratch);
  for (const Side side : {Side::kKey, Side::kValue}) {
    move.move(side, plane_of(source, side, layer), plane_of(transfer_.target, side, layer));
  }
}

/// What is not plain numbers is decoded into rows of fp32 before the kernels, or encoded out of such rows after them.
void Mover::move_by_stages(const KvRun& run, std::int32_t layer, const TokenBlock& block,
                           std::byte* scratch) const noexcept {
  const KvGeometry& geometry = transfer_.geometry;
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  auto* const decoded = reinterpret_cast<float*>(scratch);
  float* const moved = decoded + std::int64_t{kStagedTokens} * row;
  float* const slab_scratch = moved + std::int64_t{kStagedTokens} * row;
  auto* const tiles = reinterpret_cast<std::byte*>(slab_scratch + SlabRows::scratch_elements(geometry));
  const bool has_slab = is_encoded_slab(run);
  const bool encodes = is_float8(transfer_.target.layout);
  const ConstKvView source = has_slab ? ConstKvView{} : source_view(run, geometry);
  const bool decodes = has_slab || is_float8(source.layout);

  for (const Side side : {Side::kKey, Side::kValue}) {
    std::optional<SlabRows> slab_rows;
    if (has_slab) slab_rows.emplace(geometry, run.slab, side, layer, slab_scratch);
    const SourcePlane source_plane =
        has_slab ? rows_plane<const std::byte>(nullptr, geometry) : plane_of(source, side, layer);
    const TargetPlane target_plane = plane_of(transfer_.target, side, layer);
    for (std::size_t begin = 0; begin < block.num_tokens; begin += kStagedTokens) {
      TokenBlock part;
      part.num_tokens = std::min(kStagedTokens, block.num_tokens - begin);
      for (std::size_t i = 0; i < part.num_tokens; ++i) {
        const auto slot = static_cast<Slot>(i);
        part.source[i] = decodes ? slot : block.source[begin + i];
        part.target[i] = encodes ? slot : block.target[begin + i];
        part.position[i] = block.position[begin + i];
        if (has_slab) {
          slab_rows->decode(block.source[begin + i], decoded + slot * row);
        } else if (decodes) {
          decode_view_row(source_plane, block.source[begin + i], source.scales, side, layer, geometry,
                          decoded + slot * row);
        }
      }
      BlockMove move(transfer_, kernels_, direction_, encodes ? Stores::kCached : stores_, part, tiles);
      move.move(side, decodes ? rows_plane(reinterpret_cast<const std::byte*>(decoded), geometry) : source_plane,
                encodes ? rows_plane(reinterpret_cast<std::byte*>(moved), geometry) : target_plane);
      if (!encodes) continue;
      for (std::size_t i = 0; i < part.num_tokens; ++i) {
        encode_view_row(moved + static_cast<std::int64_t>(i) * row, target_plane, block.target[begin + i],
                        transfer_.target.scales, side, layer, geometry);
      }
    }
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
