#include "lab/kv_rows.hpp"

#include <algorithm>
#include <numeric>

namespace lab {
namespace {

class RowCapture final : public mini_engine::PassObserver {
 public:
  explicit RowCapture(KvRows& rows) : rows_(rows) {}

  void on_projected(int layer, const mini_engine::ProjectedRows& rows) override {
    const auto num_elements = rows.num_rows * rows.row_stride;
    float* const layer_begin = rows_.elements.data() + layer * 2 * num_elements;
    std::copy_n(static_cast<const float*>(rows.keys), num_elements, layer_begin);
    std::copy_n(static_cast<const float*>(rows.values), num_elements, layer_begin + num_elements);
  }

 private:
  KvRows& rows_;
};

}  // namespace

std::vector<float> compute_rows(mini_engine::Model& model, mini_engine::Sequence& sequence, std::int32_t first_row,
                                std::span<const mini_engine::TokenId> tokens, std::size_t first_logit,
                                KvRows* captured) {
  std::vector<std::int32_t> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), first_row);
  std::vector<std::int32_t> logit_rows(tokens.size() - first_logit);
  std::iota(logit_rows.begin(), logit_rows.end(), static_cast<std::int32_t>(first_logit));
  mini_engine::Pass pass{
      .tokens = tokens, .rows = rows, .logit_rows = logit_rows, .documents = {}, .observer = nullptr};
  if (captured == nullptr) return model.forward(pass, sequence);
  RowCapture capture(*captured);
  pass.observer = &capture;
  return model.forward(pass, sequence);
}

std::vector<float> append_rows(mini_engine::Model& model, mini_engine::Sequence& sequence,
                               std::span<const mini_engine::TokenId> tokens, std::size_t first_logit,
                               KvRows* captured) {
  const std::int32_t first_row = sequence.size();
  sequence.grow(static_cast<int>(tokens.size()));
  return compute_rows(model, sequence, first_row, tokens, first_logit, captured);
}

}  // namespace lab
