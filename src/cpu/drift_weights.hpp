// How much rows take over from samples of drift, on the CPU.
#pragma once

#include "cpu/row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "pikv/drift.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// See DriftWeighing. Requires: checked, with something to write. Throws std::bad_alloc, before anything is written.
void find_drift_weights(const DriftWeighing& weighing, const RowKernels& kernels, ThreadPool& pool);

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
