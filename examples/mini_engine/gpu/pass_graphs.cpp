#include "pass_graphs.hpp"

#include "device.hpp"

namespace mini_engine::gpu {
namespace {

/// A graph holds some hundred kilobytes; a server's shapes are fewer.
constexpr std::size_t kMostGraphs = 256;

cudaGraphExec_t capture(cudaStream_t stream, const std::function<void()>& queue) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    queue();
  } catch (...) {
    (void)cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(error, "cudaGraphInstantiate");
  return executable;
}

}  // namespace

PassGraphs::~PassGraphs() { clear(); }

void PassGraphs::clear() noexcept {
  for (const auto& [key, graph] : graphs_) {
    if (graph != nullptr) (void)cudaGraphExecDestroy(graph);
  }
  graphs_.clear();
}

void PassGraphs::run(const Key& key, cudaStream_t stream, const std::function<void()>& queue) {
  const auto known = graphs_.find(key);
  if (known == graphs_.end()) {
    if (graphs_.size() >= kMostGraphs) clear();
    queue();
    graphs_.emplace(key, nullptr);
    return;
  }
  if (known->second == nullptr) known->second = capture(stream, queue);
  check(cudaGraphLaunch(known->second, stream), "cudaGraphLaunch");
}

}  // namespace mini_engine::gpu
