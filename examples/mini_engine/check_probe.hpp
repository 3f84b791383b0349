// The example engine behind pikv's interface for checking a model: what an integrator writes to have their own vouched
// for.
//
//   CheckProbe probe(model, cache, {.store_dtype = pikv::DType::kBFloat16, .device = device});
//   const pikv::CheckReport report = pikv::check_model(probe);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "pikv/check_model.hpp"

namespace mini_engine {

struct CheckProbeOptions {
  pikv::DType store_dtype = pikv::DType::kFloat32;
  ReuseDevice device{};  ///< its backend may be null, as for ChunkServer; its chunk_memory is not used
};

/// Model and cache must outlive it; the pages of its sequence are taken from the cache.
class CheckProbe : public pikv::ModelProbe {
 public:
  CheckProbe(Model& model, PagedCache& cache, const CheckProbeOptions& options);

  [[nodiscard]] pikv::ProbedModel model() override;
  [[nodiscard]] pikv::Backend& backend() override;
  [[nodiscard]] pikv::StreamRef stream() override;
  [[nodiscard]] pikv::Result<pikv::ProbedSequence> begin_sequence(std::int32_t num_rows) override;
  [[nodiscard]] pikv::Result<std::vector<float>> compute(const pikv::ProbePass& pass) override;

 private:
  Model& model_;
  PagedCache& cache_;
  pikv::DType store_dtype_;
  ReuseDevice device_;
  std::unique_ptr<pikv::Backend> own_backend_;
  std::optional<Sequence> sequence_;
};

}  // namespace mini_engine
