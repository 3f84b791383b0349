// A kernel for the element types of both of its sides, chosen when it is launched.
#pragma once

#include <cuda_runtime_api.h>

#include "score_params.hpp"

namespace pikv::kernels {

template <template <SourceKind, SourceKind> class How, SourceKind kFresh, class Launch>
cudaError_t launch_for_cached(SourceKind cached, const Launch& launch) {
  switch (cached) {
    case SourceKind::kFloat32:
      return launch.template operator()<How<kFresh, SourceKind::kFloat32>>();
    case SourceKind::kFloat16:
      return launch.template operator()<How<kFresh, SourceKind::kFloat16>>();
    default:
      return launch.template operator()<How<kFresh, SourceKind::kBFloat16>>();
  }
}

/// launch.operator()<How<fresh, cached>>(), both fp32, fp16 or bf16.
template <template <SourceKind, SourceKind> class How, class Launch>
cudaError_t launch_for_kinds(SourceKind fresh, SourceKind cached, const Launch& launch) {
  switch (fresh) {
    case SourceKind::kFloat32:
      return launch_for_cached<How, SourceKind::kFloat32>(cached, launch);
    case SourceKind::kFloat16:
      return launch_for_cached<How, SourceKind::kFloat16>(cached, launch);
    default:
      return launch_for_cached<How, SourceKind::kBFloat16>(cached, launch);
  }
}

}  // namespace pikv::kernels
