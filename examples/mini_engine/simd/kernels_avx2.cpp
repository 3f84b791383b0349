#define MINI_ENGINE_KERNELS kAvx2Kernels
#define MINI_ENGINE_KERNELS_NAME "avx2"
#include "kernels_impl.hpp"
