// y = x W^T on the tensor cores, through cuBLASLt.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "device.hpp"
#include "mini_engine/types.hpp"

namespace mini_engine::gpu {

/// A weight matrix in device memory: [rows][columns], row-major without gaps, fp32 or bf16. Owns nothing.
struct DeviceMatrix {
  const void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Products of one precision: inputs and weights fp32 (computed in fp32) or bf16 (accumulated in fp32). What cuBLASLt
/// recommends for a shape is asked once; where rows are few, its candidates are timed, which waits for the stream and
/// takes some milliseconds. So the first product of a shape must not be captured. One thread at a time.
class Linear {
 public:
  explicit Linear(Precision precision);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  /// y[r] = W x[r]. x: [num_rows][columns] without gaps; y: [num_rows][rows], `output_stride` elements from row to row.
  /// Both of the class's precision. Throws Error when cuBLASLt has no way to do it.
  void operator()(const void* x, std::int64_t num_rows, const DeviceMatrix& w, void* y, std::int64_t output_stride,
                  cudaStream_t stream) {
    multiply(x, num_rows, w, y, output_stride, false, precision_, stream);
  }
  /// The same into fp32, [num_rows][rows] without gaps.
  void to_float(const void* x, std::int64_t num_rows, const DeviceMatrix& w, float* y, cudaStream_t stream) {
    multiply(x, num_rows, w, y, w.rows, false, Precision::kFloat32, stream);
  }
  /// y[r] += W x[r], in fp32.
  void add_to(float* y, const void* x, std::int64_t num_rows, const DeviceMatrix& w, cudaStream_t stream) {
    multiply(x, num_rows, w, y, w.rows, true, Precision::kFloat32, stream);
  }

 private:
  struct Plan;
  using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, Precision>;

  void multiply(const void* x, std::int64_t num_rows, const DeviceMatrix& w, void* y, std::int64_t output_stride,
                bool adds, Precision output, cudaStream_t stream);
  void run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const void* x, const DeviceMatrix& w, void* y,
           bool adds, cudaStream_t stream);
  const Plan& plan(const Shape& shape, const DeviceMatrix& w, cudaStream_t stream);
  [[nodiscard]] cublasLtMatmulAlgo_t choose(const Plan& plan, const Shape& shape, const DeviceMatrix& w,
                                            cudaStream_t stream);
  [[nodiscard]] std::vector<cublasLtMatmulAlgo_t> candidates(const Plan& plan, const Shape& shape, int most);
  [[nodiscard]] cublasLtMatmulAlgo_t fastest(const std::vector<cublasLtMatmulAlgo_t>& algorithms, const Plan& plan,
                                             const Shape& shape, const DeviceMatrix& w, cudaStream_t stream);

  Precision precision_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

}  // namespace mini_engine::gpu
