// From a validated KvTransfer or SlabEncode to what the kernels are told. No CUDA here: what is decided is tested on
// the host.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/params.hpp"
#include "pikv/backend.hpp"

namespace pikv::detail {

/// Which kernel a launch takes, the fastest that serves all its planes; see kernels/launch.hpp.
enum class KernelPath : std::uint8_t { kStaged, kVectors, kElements };

/// One kernel launch.
struct ReanchorLaunch {
  kernels::ReanchorParams params;
  kernels::SourceKind source = kernels::SourceKind::kBFloat16;
  DType target = DType::kBFloat16;
  KernelPath path = KernelPath::kElements;
};

/// What launches need to know of the device.
struct LaunchDevice {
  std::uint32_t* flaws = nullptr;  ///< see ReanchorParams
  std::int32_t num_multiprocessors = 1;
};

/// Calls `launch` for each launch that the transfer takes, in order, until one fails; returns its Status. There is one
/// for each kind of source, for planes that need different kernels, for every kernels::kMaxRuns runs and
/// kernels::kMaxLayers layers, and for every layer where a source has a base per layer.
/// Requires: the transfer has been validated.
[[nodiscard]] Status for_each_launch(const KvTransfer& transfer, bool turns_back, const LaunchDevice& device,
                                     const std::function<Status(const ReanchorLaunch&)>& launch);

/// Likewise for encoding. Requires: validated, and a target that is not kPlain.
[[nodiscard]] Status for_each_launch(const SlabEncode& encode, const LaunchDevice& device,
                                     const std::function<Status(const kernels::EncodeParams&)>& launch);

}  // namespace pikv::detail
