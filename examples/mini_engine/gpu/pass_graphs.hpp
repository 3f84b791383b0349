// Small passes as CUDA graphs: queueing a few hundred kernels takes the host longer than some of them take the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace mini_engine::gpu {

/// Graphs by what they were captured with. One thread at a time.
class PassGraphs {
 public:
  /// Everything that kernels and copies are launched with, addresses and sizes, that can differ from pass to pass.
  using Key = std::vector<std::uint64_t>;

  PassGraphs() = default;
  ~PassGraphs();
  PassGraphs(const PassGraphs&) = delete;
  PassGraphs& operator=(const PassGraphs&) = delete;

  /// Has the work that `queue` puts on `stream` run. A key's first pass is queued as it is, since most shapes come but
  /// once; its second is captured; later ones are replayed. Throws Error, and what `queue` throws.
  void run(const Key& key, cudaStream_t stream, const std::function<void()>& queue);

 private:
  void clear() noexcept;

  std::map<Key, cudaGraphExec_t> graphs_;  // null: seen once
};

}  // namespace mini_engine::gpu
