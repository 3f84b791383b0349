#define MINI_ENGINE_KERNELS kAvx512Kernels
#define MINI_ENGINE_KERNELS_NAME "avx512"
#include "kernels_impl.hpp"
