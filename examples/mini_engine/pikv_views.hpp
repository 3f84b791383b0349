// The engine's memory in pikv's words: how its cache and its projections lie, and which rotation it uses.
#pragma once

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

[[nodiscard]] pikv::DType dtype_of(Precision precision);
/// What the model keeps for each token, with the store's dtype.
[[nodiscard]] pikv::KvGeometry kv_geometry(const ModelConfig& config, pikv::DType store_dtype);
/// The model's rotation in pikv's words. A GGUF file's frequency divisors have no name there; they are weights and thus
/// part of the model's fingerprint.
[[nodiscard]] pikv::RopeConfig rope_config(const ModelConfig& config);
/// The engine's own cos/sin table, in host memory, so that keys equal the engine's bit for bit.
[[nodiscard]] pikv::RopeTable rope_table(const Model& model);
/// The engine's cache, all layers. Valid while the cache lives.
[[nodiscard]] pikv::KvView cache_view(PagedCache& cache);
/// Slots of a sequence's rows, in host memory. Valid until the sequence changes.
[[nodiscard]] pikv::SlotMap row_slots(const Sequence& sequence);
/// Rows of a pass, one layer; slot i is row i of the pass. space: where the model computes.
[[nodiscard]] pikv::ConstKvView projected_view(const ProjectedRows& rows, int head_dim, pikv::MemorySpace space);

}  // namespace mini_engine
