#include "linear.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::gpu {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what NVIDIA recommends for Hopper
constexpr int kMostCandidates = 8;
constexpr std::int64_t kMostTimedRows = 256;
constexpr std::size_t kCacheBytes = std::size_t{64} << 20;  // more than any L2 cache holds

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(std::string(what) + ": " + cublasLtGetStatusString(status));
}

cudaDataType_t type_of(Precision precision) { return precision == Precision::kFloat32 ? CUDA_R_32F : CUDA_R_16BF; }

/// Row counts whose products are timed; what is best for one is good for those between it and the one before.
std::int64_t timed_rows(std::int64_t num_rows) {
  if (num_rows > 64) return (num_rows + 63) / 64 * 64;
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(num_rows, 8))));
}

}  // namespace

/// cuBLASLt counts columns first, so its product is the transposed one: y^T [rows, r] = (W^T)^T x^T.
struct Linear::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (y != nullptr) (void)cublasLtMatrixLayoutDestroy(y);
    if (x != nullptr) (void)cublasLtMatrixLayoutDestroy(x);
    if (w != nullptr) (void)cublasLtMatrixLayoutDestroy(w);
    if (operation != nullptr) (void)cublasLtMatmulDescDestroy(operation);
  }
};

Linear::Linear(Precision precision) : precision_(precision), workspace_(kWorkspaceBytes) {
  check(cublasLtCreate(&handle_), "cublasLtCreate");
}

Linear::~Linear() {
  plans_.clear();
  (void)cublasLtDestroy(handle_);
}

cublasLtMatmulAlgo_t Linear::choose(const Plan& plan, const Shape& shape, const DeviceMatrix& w, cudaStream_t stream) {
  const auto& [num_rows, outputs, inputs, output_stride, adds, output] = shape;
  if (num_rows > kMostTimedRows) return candidates(plan, shape, 1).front();
  const std::int64_t model_rows = timed_rows(num_rows);
  if (num_rows == model_rows) return fastest(candidates(plan, shape, kMostCandidates), plan, shape, w, stream);
  const Plan& model = this->plan({model_rows, outputs, inputs, output_stride, adds, output}, w, stream);
  cublasLtMatmulHeuristicResult_t result{};
  const bool fits = cublasLtMatmulAlgoCheck(handle_, plan.operation, plan.w, plan.x, plan.y, plan.y, &model.algorithm,
                                            &result) == CUBLAS_STATUS_SUCCESS &&
                    result.workspaceSize <= kWorkspaceBytes;
  return fits ? model.algorithm : candidates(plan, shape, 1).front();
}

std::vector<cublasLtMatmulAlgo_t> Linear::candidates(const Plan& plan, const Shape& shape, int most) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const std::size_t workspace_bytes = kWorkspaceBytes;
  (void)cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                             sizeof(workspace_bytes));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(most));
  int num_found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.w, plan.x, plan.y, plan.y,
                                                               preference, most, found.data(), &num_found);
  (void)cublasLtMatmulPreferenceDestroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (num_found == 0) {
    throw Error("cuBLASLt has no product of " + std::to_string(std::get<0>(shape)) + " rows by [" +
                std::to_string(std::get<1>(shape)) + "][" + std::to_string(std::get<2>(shape)) + "]");
  }
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < num_found; ++i) algorithms.push_back(found[static_cast<std::size_t>(i)].algo);
  return algorithms;
}

/// cuBLASLt's guess is a few percent off the best where weights are read from memory once and hardly computed with. So
/// all run, each with the caches full of something else.
cublasLtMatmulAlgo_t Linear::fastest(const std::vector<cublasLtMatmulAlgo_t>& algorithms, const Plan& plan,
                                     const Shape& shape, const DeviceMatrix& w, cudaStream_t stream) {
  constexpr int kRuns = 3;
  const auto& [num_rows, outputs, inputs, output_stride, adds, output] = shape;
  const DeviceBuffer x(static_cast<std::size_t>(num_rows * inputs) * sizeof(float));
  const DeviceBuffer y(static_cast<std::size_t>(num_rows * output_stride) * sizeof(float));
  const DeviceBuffer other(kCacheBytes);
  check(cudaMemsetAsync(x.as<void>(), 0, x.size_bytes(), stream), "cudaMemsetAsync");
  check(cudaMemsetAsync(y.as<void>(), 0, y.size_bytes(), stream), "cudaMemsetAsync");
  const Event before;
  const Event after;
  float least = HUGE_VALF;
  const cublasLtMatmulAlgo_t* best = &algorithms.front();
  for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
    std::array<float, kRuns> times{};
    for (float& time : times) {
      check(cudaMemsetAsync(other.as<void>(), 0, other.size_bytes(), stream), "cudaMemsetAsync");
      before.record(stream);
      run(plan, algorithm, x.as<void>(), w, y.as<void>(), adds, stream);
      after.record(stream);
      time = after.milliseconds_since(before);
    }
    std::sort(times.begin(), times.end());
    if (times[kRuns / 2] >= least) continue;
    least = times[kRuns / 2];
    best = &algorithm;
  }
  return *best;
}

void Linear::run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const void* x, const DeviceMatrix& w, void* y,
                 bool adds, cudaStream_t stream) {
  const float one = 1.0F;
  const float beta = adds ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle_, plan.operation, &one, w.data, plan.w, x, plan.x, &beta, y, plan.y, y, plan.y,
                       &algorithm, workspace_.as<void>(), kWorkspaceBytes, stream),
        "cublasLtMatmul");
}

const Linear::Plan& Linear::plan(const Shape& shape, const DeviceMatrix& weights, cudaStream_t stream) {
  std::unique_ptr<Plan>& known = plans_[shape];
  if (known != nullptr) return *known;
  auto made = std::make_unique<Plan>();
  Plan& plan = *made;
  const auto& [num_rows, outputs, inputs, output_stride, adds, output] = shape;
  const auto rows = static_cast<std::uint64_t>(num_rows);
  const auto m = static_cast<std::uint64_t>(outputs);
  const auto k = static_cast<std::uint64_t>(inputs);
  const cudaDataType_t type = type_of(precision_);
  check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
        "cublasLtMatmulDescSetAttribute");
  check(cublasLtMatrixLayoutCreate(&plan.w, type, k, m, inputs), "cublasLtMatrixLayoutCreate");
  check(cublasLtMatrixLayoutCreate(&plan.x, type, k, rows, inputs), "cublasLtMatrixLayoutCreate");
  check(cublasLtMatrixLayoutCreate(&plan.y, type_of(output), m, rows, output_stride), "cublasLtMatrixLayoutCreate");

  plan.algorithm = choose(plan, shape, weights, stream);
  known = std::move(made);
  return plan;
}

void Linear::multiply(const void* x, std::int64_t num_rows, const DeviceMatrix& w, void* y, std::int64_t output_stride,
                      bool adds, Precision output, cudaStream_t stream) {
  if (num_rows == 0) return;
  const Plan& chosen = plan({num_rows, w.rows, w.columns, output_stride, adds, output}, w, stream);
  run(chosen, chosen.algorithm, x, w, y, adds, stream);
}

}  // namespace mini_engine::gpu
