#include "lab/layer_errors.hpp"

#include "lab/cached_rows.hpp"
#include "lab/relative_error.hpp"

namespace lab {
namespace {

double relative_error(const std::vector<float>& full, const std::vector<float>& arm) {
  RelativeError error;
  for (std::size_t i = 0; i < full.size(); ++i) error.add(full[i], arm[i]);
  return error.value();
}

}  // namespace

std::vector<LayerError> layer_errors(const mini_engine::ModelConfig& config, const mini_engine::Sequence& full,
                                     const mini_engine::Sequence& arm, std::span<const std::int32_t> rows,
                                     mini_engine::ThreadPool& pool) {
  std::vector<LayerError> errors(static_cast<std::size_t>(config.num_layers));
  pool.run(config.num_layers, [&](int layer, int) {
    errors[static_cast<std::size_t>(layer)] = {
        .keys = relative_error(read_keys(full, layer, rows), read_keys(arm, layer, rows)),
        .values = relative_error(read_values(full, layer, rows), read_values(arm, layer, rows))};
  });
  return errors;
}

}  // namespace lab
