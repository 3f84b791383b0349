// Choosing the next tokens where the logits are.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "device.hpp"
#include "mini_engine/types.hpp"

namespace mini_engine::gpu {

/// How one row's token is drawn, as Sampler does it.
struct Draw {
  float temperature = 0;  ///< 0: greedy, the lowest id among equals
  float top_p = 1;        ///< in (0, 1]
  double fraction = 0;    ///< in [0, 1): where in the distribution the token lies; ids ascend
};

struct Drawn {
  static constexpr std::int32_t kNone = -1;
  TokenId token = 0;
  std::int32_t bad_logit = kNone;  ///< the first that is NaN or plus infinity
  bool is_empty = false;           ///< every logit is minus infinity
};

/// Weights are computed in fp32 and summed in double, in an order that does not change. Owns its scratch; one thread at
/// a time.
class Sampling {
 public:
  /// logits: [draws.size()][vocab_size] fp32 in device memory. Queues on `stream` and waits for it.
  [[nodiscard]] std::vector<Drawn> operator()(const float* logits, std::int64_t vocab_size, std::span<const Draw> draws,
                                              cudaStream_t stream);

 private:
  DeviceBuffer draws_;
  DeviceBuffer parts_;
  DeviceBuffer drawn_;
};

}  // namespace mini_engine::gpu
