// The part of memory_copies.hpp that a build may lack.
#pragma once

#include <cstddef>

namespace lab {

/// Each waits for all that the device has been given, and has ended on return. Throws mini_engine::Error.
void copy_from_device(const void* from, void* to, std::size_t size_bytes);
void copy_to_device(const void* from, void* to, std::size_t size_bytes);

}  // namespace lab
