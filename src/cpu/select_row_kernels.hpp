// Which of the row kernels this CPU can run.
#pragma once

#include <span>

#include "cpu/row_kernels.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// All sets that this CPU can run, the fastest last. Never empty.
[[nodiscard]] std::span<const RowKernels* const> supported_row_kernels() noexcept;

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
