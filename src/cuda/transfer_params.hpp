// From a validated KvTransfer or SlabEncode to what the kernels are told. No CUDA here: what is decided is tested on the
// host.
#pragma once

#include <cstdint>
#include <functional>

#include "pikv/backend.hpp"
#include "kernels/params.hpp"

namespace pikv::detail {

/// One kernel launch.
struct ReanchorLaunch {
  kernels::ReanchorParams params;
  kernels::SourceKind source = kernels::SourceKind::kBFloat16;
  DType target = DType::kBFloat16;
  bool vectors = false;  ///< every plane of the launch can be moved by vectors
};

/// Calls `launch` for each launch that the transfer takes, in order, until one fails; returns its Status. There is one
/// for each kind of source, for planes that need different kernels, for every kernels::kMaxRuns runs and
/// kernels::kMaxLayers layers, and for every layer where a source has a base per layer.
/// Requires: the transfer has been validated. flaws: see ReanchorParams.
[[nodiscard]] Status for_each_launch(const KvTransfer& transfer, bool turns_back, std::uint32_t* flaws,
                                     const std::function<Status(const ReanchorLaunch&)>& launch);

/// Likewise for encoding. Requires: validated, and a target that is not kPlain.
[[nodiscard]] Status for_each_launch(const SlabEncode& encode, std::uint32_t* flaws,
                                     const std::function<Status(const kernels::EncodeParams&)>& launch);

}  // namespace pikv::detail
