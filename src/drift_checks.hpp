// What can be checked of drift and its correction: before anything is written, and without looking into device memory.
#pragma once

#include "pikv/backend.hpp"
#include "pikv/drift.hpp"
#include "pikv/status.hpp"

namespace pikv::detail {

/// Without looking into arrays. caps: name and space of whoever corrects.
[[nodiscard]] Status check_drift(const DriftWeighing& weighing, const BackendCaps& caps);
[[nodiscard]] Status check_drift(const DriftCorrection& correction, const BackendCaps& caps);

/// Of arrays in host memory. Requires: what is checked has passed the check above.
[[nodiscard]] Status check_drift_arrays(const DriftWeighing& weighing);
[[nodiscard]] Status check_drift_arrays(const DriftCorrection& correction);

/// Whether anything is to be written. Requires: checked.
[[nodiscard]] inline bool has_work(const DriftWeighing& weighing) noexcept { return !weighing.weights.empty(); }
[[nodiscard]] inline bool has_work(const DriftCorrection& correction) noexcept {
  return !correction.weights.empty() && !correction.target_rows.empty() &&
         (correction.key_gain != 0 || correction.value_gain != 0);
}

}  // namespace pikv::detail
