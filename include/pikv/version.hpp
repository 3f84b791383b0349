// Version numbers and the export macro.
#pragma once

#define PIKV_VERSION_MAJOR 0
#define PIKV_VERSION_MINOR 1
#define PIKV_VERSION_PATCH 0

// Marks what a shared build exports; everything else stays hidden.
#define PIKV_API __attribute__((visibility("default")))

// Arithmetic that runs on the host and, when a CUDA compiler reads this header, on the device.
#if defined(__CUDACC__)
#define PIKV_HOST_DEVICE __host__ __device__
#else
#define PIKV_HOST_DEVICE
#endif
