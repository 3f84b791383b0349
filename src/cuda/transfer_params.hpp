// From a validated KvTransfer or SlabEncode to what the kernels are told. No CUDA here: what is decided is tested on
// the host.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/params.hpp"
#include "pikv/backend.hpp"

namespace pikv::detail {

/// Which kernel a launch takes, the fastest that serves all its planes; see kernels/launch.hpp.
enum class KernelPath : std::uint8_t { kStripes, kVectors, kElements };

/// One kernel launch.
struct ReanchorLaunch {
  kernels::ReanchorParams params;
  kernels::SourceKind source = kernels::SourceKind::kBFloat16;
  DType target = DType::kBFloat16;
  KernelPath path = KernelPath::kElements;
};

/// Calls `launch` for each launch that the transfer takes, in order, until one fails; returns its Status. There is one
/// for each kind of source, for planes that need different kernels, for every kernels::kMaxRuns runs and
/// kernels::kMaxLayers layers, and for every layer where a source has a base per layer.
/// kUnsupported where a view reaches further than the kernels' 32-bit offsets. flaws: see ReanchorParams.
/// Requires: the transfer has been validated.
[[nodiscard]] Status for_each_launch(const KvTransfer& transfer, bool turns_back, std::uint32_t* flaws,
                                     const std::function<Status(const ReanchorLaunch&)>& launch);

/// Likewise for encoding, in one launch or one for each layer. Requires: validated, and a target that is not kPlain.
[[nodiscard]] Status for_each_launch(const SlabEncode& encode, std::uint32_t* flaws,
                                     const std::function<Status(const kernels::EncodeParams&)>& launch);

}  // namespace pikv::detail
