#include "mini_engine/pikv_views.hpp"

#include "mini_engine/pikv_errors.hpp"

namespace mini_engine {
pikv::DType dtype_of(Precision precision) {
  return precision == Precision::kFloat32 ? pikv::DType::kFloat32 : pikv::DType::kBFloat16;
}

pikv::KvGeometry kv_geometry(const ModelConfig& config, pikv::DType store_dtype) {
  return pikv::KvGeometry{.num_layers = config.num_layers,
                          .num_kv_heads = config.num_kv_heads,
                          .head_dim = config.head_dim,
                          .rotary_dim = config.head_dim,
                          .dtype = store_dtype};
}

pikv::RopeConfig rope_config(const ModelConfig& config) {
  pikv::RopeConfig rope(config.rope.theta, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
  switch (config.rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      rope.scaling = pikv::LinearScaling{.factor = config.rope.factor};
      break;
    case RopeScaling::kLlama3:
      rope.scaling = pikv::Llama3Scaling{.factor = config.rope.factor,
                                         .low_freq_factor = config.rope.low_freq_factor,
                                         .high_freq_factor = config.rope.high_freq_factor,
                                         .original_max_positions = config.rope.original_max_positions};
      break;
  }
  return rope;
}

pikv::RopeTable rope_table(const Model& model) {
  return take(pikv::RopeTable::adopt(model.rotary().cos, model.rotary().sin, model.config().head_dim,
                                     pikv::Pairing::kHalfSplit));
}

pikv::KvView cache_view(PagedCache& cache) {
  const PagedCache::Strides& s = cache.strides();
  const pikv::AxisStrides strides{.layer = s.layer, .page = s.page, .token = s.token, .head = s.head, .dim = 1};
  const pikv::DType dtype = dtype_of(cache.precision());
  return pikv::KvView{
      .layout = {.dtype = dtype, .page_size = cache.page_size(), .k = strides, .v = strides},
      .k_base = cache.data(),
      .v_base = cache.data() + s.value_offset * pikv::dtype_bytes(dtype),
      .num_slots = cache.num_slots(),
      .space = cache.memory() == CacheMemory::kDevice ? pikv::MemorySpace::kDevice : pikv::MemorySpace::kHost};
}

pikv::SlotMap row_slots(const Sequence& sequence) {
  return pikv::SlotMap::per_token(sequence.slots().data(), sequence.size());
}

pikv::ConstKvView projected_view(const ProjectedRows& rows, int head_dim, pikv::MemorySpace space) {
  const pikv::AxisStrides strides{
      .layer = 0, .page = rows.row_stride, .token = rows.row_stride, .head = head_dim, .dim = 1};
  return pikv::ConstKvView{.layout = {.dtype = dtype_of(rows.precision), .page_size = 1, .k = strides, .v = strides},
                           .k_base = static_cast<const std::byte*>(rows.keys),
                           .v_base = static_cast<const std::byte*>(rows.values),
                           .num_slots = rows.num_rows,
                           .space = space};
}

}  // namespace mini_engine
