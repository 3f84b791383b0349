#include "observed_passes.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

namespace mini_engine::gpu {
namespace {

/// Rows of whatever precision move as words: `row_bytes` is a multiple of 16, since sizes are multiples of 8 elements.
void gather_bytes(const void* from, const DeviceBuffer& chosen, std::int64_t num_rows, std::int64_t row_bytes,
                  DeviceBuffer& to, cudaStream_t stream) {
  to.grow(static_cast<std::size_t>(num_rows * row_bytes));
  gather_rows(static_cast<const float*>(from), chosen.as<std::int32_t>(), num_rows,
              row_bytes / static_cast<std::int64_t>(sizeof(float)), to.as<float>(), stream);
}

}  // namespace

ObservedPasses::ObservedPasses(Precision precision, const HeadSizes& sizes, std::int64_t hidden_size)
    : precision_(precision),
      sizes_(sizes),
      element_bytes_(precision == Precision::kFloat32 ? 4 : 2),
      hidden_size_(hidden_size) {}

void ObservedPasses::assign(std::span<const SequencePass> passes) {
  passes_ = passes;
  rows_.clear();
  has_observers_ =
      std::any_of(passes.begin(), passes.end(), [](const SequencePass& one) { return one.pass.observer != nullptr; });
  if (!has_observers_) return;
  for (const SequencePass& one : passes) rows_.emplace_back(one.pass);
}

std::vector<ObservedPasses::Share> ObservedPasses::shares() const {
  std::vector<Share> shares;
  std::int64_t first = 0;
  for (const PassRows& rows : rows_) {
    shares.push_back({&rows.pass(), first, rows.size()});
    first += rows.size();
  }
  return shares;
}

void ObservedPasses::before_layer(int layer) const {
  for (const PassRows& rows : rows_) {
    if (rows.pass().observer != nullptr) rows.pass().observer->before_layer(layer);
  }
}

void ObservedPasses::show_projected(int layer, const void* projected) const {
  const std::int64_t query_size = std::int64_t{sizes_.num_heads} * sizes_.head_dim;
  const std::int64_t key_size = std::int64_t{sizes_.num_kv_heads} * sizes_.head_dim;
  for (const Share& share : shares()) {
    if (share.pass->observer == nullptr) continue;
    const std::byte* const keys =
        static_cast<const std::byte*>(projected) + (share.first * sizes_.row() + query_size) * element_bytes_;
    share.pass->observer->on_projected(layer, {.precision = precision_,
                                               .num_rows = share.count,
                                               .rows = share.pass->rows,
                                               .row_stride = sizes_.row(),
                                               .keys = keys,
                                               .values = keys + key_size * element_bytes_});
  }
}

bool ObservedPasses::let_rows_go(int layer) {
  if (!has_observers_) return false;
  std::vector<std::optional<std::vector<std::int32_t>>> chosen;
  for (const PassRows& rows : rows_) chosen.push_back(rows.ask_which_go_on(layer));
  if (std::none_of(chosen.begin(), chosen.end(), [](const auto& one) { return one.has_value(); })) return false;

  kept_.clear();
  const std::vector<Share> before = shares();
  std::vector<SequencePass> narrowed;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const auto first = static_cast<std::int32_t>(before[i].first);
    if (chosen[i]) {
      for (const std::int32_t index : *chosen[i]) kept_.push_back(first + index);
      rows_[i].keep(*chosen[i]);
    } else {
      for (std::int32_t index = 0; index < before[i].count; ++index) kept_.push_back(first + index);
    }
    narrowed.push_back({rows_[i].pass(), passes_[i].sequence});
  }
  narrowed_ = std::move(narrowed);
  passes_ = narrowed_;
  return true;
}

void ObservedPasses::gather(float*& residual, const void*& projected, cudaStream_t stream) {
  const auto num_rows = static_cast<std::int64_t>(kept_.size());
  upload(kept_on_device_, std::span<const std::int32_t>(kept_), stream);
  DeviceBuffer& hidden = residual == hidden_[0].as<float>() ? hidden_[1] : hidden_[0];
  gather_bytes(residual, kept_on_device_, num_rows, hidden_size_ * static_cast<std::int64_t>(sizeof(float)), hidden,
               stream);
  gather_bytes(projected, kept_on_device_, num_rows, sizes_.row() * element_bytes_, projected_, stream);
  residual = hidden.as<float>();
  projected = projected_.as<void>();
}

TurnedQueries ObservedPasses::queries_of(const Share& share, const void* projected) const {
  return {.precision = precision_,
          .rows = share.pass->rows,
          .row_stride = sizes_.row(),
          .data = static_cast<const std::byte*>(projected) + share.first * sizes_.row() * element_bytes_};
}

void ObservedPasses::attend(int layer, const void* projected, void* out, const std::function<void(void*)>& by_model,
                            cudaStream_t stream) {
  const std::vector<Share> all = shares();
  for (const Share& share : all) {
    if (share.pass->observer != nullptr) share.pass->observer->on_queries(layer, queries_of(share, projected));
  }
  const std::int64_t row_bytes = std::int64_t{sizes_.num_heads} * sizes_.head_dim * element_bytes_;
  std::vector<Share> left;
  for (const Share& share : all) {
    std::byte* const place = static_cast<std::byte*>(out) + share.first * row_bytes;
    if (share.pass->observer != nullptr && share.pass->observer->attend(layer, queries_of(share, projected), place)) {
      continue;
    }
    if (share.count > 0) left.push_back(share);
  }
  const auto count_rows = [](const std::vector<Share>& of) {
    std::int64_t count = 0;
    for (const Share& share : of) count += share.count;
    return count;
  };
  if (count_rows(left) == count_rows(all)) return by_model(out);
  if (left.empty()) return;
  // The model's work is laid out for the whole batch. What it computes of passes that attend themselves is thrown away.
  attended_.grow(static_cast<std::size_t>(count_rows(all) * row_bytes));
  by_model(attended_.as<void>());
  for (const Share& share : left) {
    check(cudaMemcpyAsync(static_cast<std::byte*>(out) + share.first * row_bytes,
                          attended_.as<std::byte>() + share.first * row_bytes,
                          static_cast<std::size_t>(share.count * row_bytes), cudaMemcpyDeviceToDevice, stream),
          "cudaMemcpyAsync");
  }
}

}  // namespace mini_engine::gpu
