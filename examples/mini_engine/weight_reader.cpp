#include "weight_reader.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "bfloat16.hpp"
#include "error.hpp"
#include "mapped_file.hpp"

namespace mini_engine {
namespace {

const char* role_name(TensorRole role) {
  switch (role) {
    case TensorRole::kTokenEmbedding:
      return "token embedding";
    case TensorRole::kOutputNorm:
      return "output norm";
    case TensorRole::kOutputHead:
      return "output head";
    case TensorRole::kAttentionNorm:
      return "attention norm";
    case TensorRole::kQuery:
      return "query projection";
    case TensorRole::kKey:
      return "key projection";
    case TensorRole::kValue:
      return "value projection";
    case TensorRole::kAttentionOutput:
      return "attention output";
    case TensorRole::kFfnNorm:
      return "feed-forward norm";
    case TensorRole::kFfnGate:
      return "feed-forward gate";
    case TensorRole::kFfnUp:
      return "feed-forward up";
    case TensorRole::kFfnDown:
      return "feed-forward down";
  }
  return "tensor";
}

TensorView checked_tensor(const ModelFile& file, TensorName name, std::int64_t rows, std::int64_t columns) {
  const TensorView view = file.tensor(name.role, name.layer);
  if (view.rows != rows || view.columns != columns) {
    throw Error(file.config().name + ": " + role_name(name.role) + " of layer " + std::to_string(name.layer) + " is " +
                std::to_string(view.rows) + " by " + std::to_string(view.columns) + ", the configuration calls for " +
                std::to_string(rows) + " by " + std::to_string(columns));
  }
  return view;
}

std::size_t row_bytes(const TensorView& view) {
  return view.rows == 0 ? 0 : view.bytes.size() / static_cast<std::size_t>(view.rows);
}

}  // namespace

TensorRows::TensorRows(const ModelFile& file, TensorName name, std::int64_t num_rows, std::int64_t num_columns)
    : view_(checked_tensor(file, name, num_rows, num_columns)) {
  const bool is_rotated = name.role == TensorRole::kQuery || name.role == TensorRole::kKey;
  if (is_rotated && file.has_interleaved_rope_rows()) interleaved_head_dim_ = file.config().head_dim;
}

/// Of an interleaved file, pairs (2i, 2i+1), the row that belongs at `row` of the half-split order.
std::int64_t TensorRows::stored_row(std::int64_t row) const {
  if (interleaved_head_dim_ == 0) return row;
  const std::int64_t head = row / interleaved_head_dim_;
  const std::int64_t half = interleaved_head_dim_ / 2;
  const std::int64_t i = row % interleaved_head_dim_;
  return head * interleaved_head_dim_ + (i < half ? 2 * i : 2 * (i - half) + 1);
}

void TensorRows::read(std::int64_t row, std::span<float> out) const { dequantize(view_, stored_row(row), 0, out); }

void TensorRows::read(std::int64_t row, Precision precision, std::span<float> decoded, std::byte* out) const {
  const Encoding wanted = precision == Precision::kFloat32 ? Encoding::kF32 : Encoding::kBF16;
  if (view_.encoding == wanted) {
    const std::size_t size_bytes = row_bytes(view_);
    std::memcpy(out, view_.bytes.data() + static_cast<std::size_t>(stored_row(row)) * size_bytes, size_bytes);
    return;
  }
  read(row, decoded);
  if (precision == Precision::kFloat32) {
    std::memcpy(out, decoded.data(), decoded.size_bytes());
  } else {
    std::transform(decoded.begin(), decoded.end(), reinterpret_cast<BFloat16*>(out), to_bfloat16);
  }
}

void TensorRows::prefetch(std::int64_t begin, std::int64_t count) const noexcept {
  const std::size_t size_bytes = row_bytes(view_);
  mini_engine::prefetch(
      view_.bytes.subspan(static_cast<std::size_t>(begin) * size_bytes, static_cast<std::size_t>(count) * size_bytes));
}

void read_vector(const ModelFile& file, TensorName name, std::span<float> out) {
  dequantize(checked_tensor(file, name, 1, static_cast<std::int64_t>(out.size())), 0, 0, out);
}

}  // namespace mini_engine
