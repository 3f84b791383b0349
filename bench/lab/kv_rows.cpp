#include "lab/kv_rows.hpp"

#include <algorithm>
#include <numeric>

namespace lab {
namespace {

class RowCapture final : public mini_engine::PassObserver {
 public:
  explicit RowCapture(KvRows& rows) : rows_(rows) {}

  void on_projected(int layer, std::span<const float> keys, std::span<const float> values) override {
    float* const layer_begin = rows_.elements.data() + static_cast<std::size_t>(layer) * 2 * keys.size();
    std::copy(keys.begin(), keys.end(), layer_begin);
    std::copy(values.begin(), values.end(), layer_begin + keys.size());
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
