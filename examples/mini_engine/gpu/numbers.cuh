// Numbers in fp32, whatever the memory holds.
#pragma once

#include <cuda_bf16.h>

namespace mini_engine::gpu {

__device__ inline float load(const float* p) { return *p; }
__device__ inline float load(const __nv_bfloat16* p) { return __bfloat162float(*p); }
__device__ inline void store(float* p, float value) { *p = value; }
__device__ inline void store(__nv_bfloat16* p, float value) { *p = __float2bfloat16_rn(value); }

}  // namespace mini_engine::gpu
