// A batch's passes as their observers see them: what they are shown, which rows they let go, whose attention they
// compute.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "device.hpp"
#include "mini_engine/model.hpp"
#include "mini_engine/pass_rows.hpp"
#include "mini_engine/types.hpp"
#include "ops.hpp"

namespace mini_engine::gpu {

/// Rows of a batch lie in device memory, pass by pass; `projected` is [R] rows of [Q*D + 2*H*D], queries first. Costs
/// nothing for a batch without observers. Owns its scratch; one thread at a time.
class ObservedPasses {
 public:
  ObservedPasses(Precision precision, const HeadSizes& sizes, std::int64_t hidden_size);

  /// Borrows the passes until the next call. Requires: checked passes.
  void assign(std::span<const SequencePass> passes);
  /// The passes as if they had been given only the rows that go on; valid until let_rows_go() and assign().
  [[nodiscard]] std::span<const SequencePass> passes() const { return passes_; }

  void before_layer(int layer) const;
  void show_projected(int layer, const void* projected) const;
  /// Asks which rows go on; returns whether any do not. Throws Error as PassRows does, before any is let go.
  [[nodiscard]] bool let_rows_go(int layer);
  /// Queues copies of what goes on after let_rows_go(), and sets the pointers to them. residual: [R][E] fp32.
  void gather(float*& residual, const void*& projected, cudaStream_t stream);

  /// Shows the queries, turned, and has the attention computed by the observers that want to and, for all other passes,
  /// by `by_model`, which writes all rows of the [R][Q][D] that it is given. out: the same.
  void attend(int layer, const void* projected, void* out, const std::function<void(void*)>& by_model,
              cudaStream_t stream);

 private:
  /// One pass's rows [first, first + count) of the batch.
  struct Share {
    const Pass* pass;
    std::int64_t first, count;
  };
  [[nodiscard]] std::vector<Share> shares() const;
  [[nodiscard]] TurnedQueries queries_of(const Share& share, const void* projected) const;

  Precision precision_;
  HeadSizes sizes_;
  std::int64_t element_bytes_;
  std::int64_t hidden_size_;

  std::span<const SequencePass> passes_;
  bool has_observers_ = false;
  std::vector<PassRows> rows_;          // of each pass; empty without observers
  std::vector<SequencePass> narrowed_;  // what passes_ are once rows were let go
  std::vector<std::int32_t> kept_;      // of the rows before, those that go on

  DeviceBuffer kept_on_device_;
  DeviceBuffer hidden_[2];  // [E] fp32: rows are gathered from one to the other
  DeviceBuffer projected_;  // [Q*D + 2*H*D]
  DeviceBuffer attended_;   // [Q*D] by the model, when some observers attend
};

}  // namespace mini_engine::gpu
