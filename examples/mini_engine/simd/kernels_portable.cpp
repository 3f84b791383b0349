#define MINI_ENGINE_KERNELS kPortableKernels
#define MINI_ENGINE_KERNELS_NAME "portable"
#include "kernels_impl.hpp"
