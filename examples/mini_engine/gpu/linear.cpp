#include "linear.hpp"

#include <string>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::gpu {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what NVIDIA recommends for Hopper

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(std::string(what) + ": " + cublasLtGetStatusString(status));
}

cudaDataType_t type_of(Precision precision) { return precision == Precision::kFloat32 ? CUDA_R_32F : CUDA_R_16BF; }

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

const Linear::Plan& Linear::plan(const Shape& shape) {
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

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const std::size_t workspace_bytes = kWorkspaceBytes;
  (void)cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                             sizeof(workspace_bytes));
  cublasLtMatmulHeuristicResult_t found{};
  int num_found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.w, plan.x, plan.y, plan.y,
                                                               preference, 1, &found, &num_found);
  (void)cublasLtMatmulPreferenceDestroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (num_found == 0) {
    throw Error("cuBLASLt has no product of " + std::to_string(num_rows) + " rows by [" + std::to_string(outputs) +
                "][" + std::to_string(inputs) + "]");
  }
  plan.algorithm = found.algo;
  known = std::move(made);
  return plan;
}

void Linear::multiply(const void* x, std::int64_t num_rows, const DeviceMatrix& w, void* y, std::int64_t output_stride,
                      bool adds, Precision output, cudaStream_t stream) {
  if (num_rows == 0) return;
  const Plan& chosen = plan({num_rows, w.rows, w.columns, output_stride, adds, output});
  const float one = 1.0F;
  const float beta = adds ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle_, chosen.operation, &one, w.data, chosen.w, x, chosen.x, &beta, y, chosen.y, y, chosen.y,
                       &chosen.algorithm, workspace_.as<void>(), kWorkspaceBytes, stream),
        "cublasLtMatmul");
}

}  // namespace mini_engine::gpu
