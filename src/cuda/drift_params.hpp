// From weighings and corrections to what the kernels of drift are told.
#pragma once

#include <cstddef>

#include "cuda/carver.hpp"
#include "kernels/drift_params.hpp"
#include "pikv/drift.hpp"

namespace pikv::detail {

/// Samples and targets read as rows, and then weighed.
struct WeighLaunches {
  kernels::ReadRowsParams samples;
  kernels::ReadRowsParams targets;
  kernels::WeighRowsParams weigh;
};
/// What samples differ by is read, and targets are moved.
struct CorrectLaunches {
  kernels::ReadRowsParams differences;
  kernels::MoveRowsParams move;
};

/// Requires of all: checked, check_reach() included, has_work(). A carver without memory counts what is needed.
[[nodiscard]] WeighLaunches drift_launches(const DriftWeighing& weighing, Carver& carver) noexcept;
[[nodiscard]] CorrectLaunches drift_launches(const DriftCorrection& correction, Carver& carver) noexcept;

}  // namespace pikv::detail
