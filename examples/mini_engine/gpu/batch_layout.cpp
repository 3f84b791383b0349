#include "batch_layout.hpp"

#include <cstring>

namespace mini_engine::gpu {
namespace {

/// Enough that small batches never move.
constexpr std::size_t kLeastBytes = std::size_t{1} << 20;

}  // namespace

template <class T>
std::size_t BatchLayout::append(std::span<const T> values) {
  constexpr std::size_t kAlignment = 16;
  const std::size_t offset = (host_.size() + kAlignment - 1) / kAlignment * kAlignment;
  host_.resize(offset + values.size_bytes());
  if (!values.empty()) std::memcpy(host_.data() + offset, values.data(), values.size_bytes());
  return offset;
}

void BatchLayout::assign(std::span<const SequencePass> passes, cudaStream_t stream) {
  std::vector<TokenId> tokens;
  std::vector<std::int64_t> slots;
  std::vector<std::int32_t> logit_rows;
  std::vector<std::int32_t> pages;
  std::vector<std::int32_t> documents;
  host_sequences_.clear();
  host_positions_.clear();
  for (const SequencePass& one : passes) {
    const Pass& pass = one.pass;
    if (pass.rows.empty()) continue;
    const auto first_row = static_cast<std::int32_t>(tokens.size());
    host_sequences_.push_back(
        {.first_row = first_row,
         .num_rows = static_cast<std::int32_t>(pass.rows.size()),
         .first_page = static_cast<std::int32_t>(pages.size()),
         .first_document = pass.documents.empty() ? -1 : static_cast<std::int32_t>(documents.size())});
    tokens.insert(tokens.end(), pass.tokens.begin(), pass.tokens.end());
    host_positions_.insert(host_positions_.end(), pass.rows.begin(), pass.rows.end());
    for (const std::int32_t row : pass.rows) slots.push_back(one.sequence->slots()[static_cast<std::size_t>(row)]);
    for (const std::int32_t index : pass.logit_rows) logit_rows.push_back(first_row + index);
    pages.insert(pages.end(), one.sequence->pages().begin(), one.sequence->pages().end());
    documents.insert(documents.end(), pass.documents.begin(), pass.documents.end());
  }
  num_rows_ = static_cast<std::int64_t>(tokens.size());
  num_logit_rows_ = static_cast<std::int64_t>(logit_rows.size());
  host_.clear();
  tokens_ = append(std::span<const TokenId>(tokens));
  slots_ = append(std::span<const std::int64_t>(slots));
  positions_ = append(std::span<const std::int32_t>(host_positions_));
  logit_rows_ = append(std::span<const std::int32_t>(logit_rows));
  // Last, since they grow while the rest stays where it is.
  pages_ = append(std::span<const std::int32_t>(pages));
  has_documents_ = !documents.empty();
  documents_ = append(std::span<const std::int32_t>(documents));
  memory_.grow(kLeastBytes);
  upload(memory_, std::span<const std::byte>(host_), stream);
}

AttentionBatch BatchLayout::attention() const {
  return {.positions = positions(),
          .pages = at<std::int32_t>(pages_),
          .documents = has_documents_ ? at<std::int32_t>(documents_) : nullptr};
}

}  // namespace mini_engine::gpu
