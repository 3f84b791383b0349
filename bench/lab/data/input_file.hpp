// Files of data sets, gzip-compressed or not.
#pragma once

#include <filesystem>
#include <string>

namespace lab {

/// All bytes of the file; of one that begins as gzip does, what it holds. Throws mini_engine::Error for a file that
/// cannot be opened or read, for damaged gzip, for more than 1 GiB, and for gzip in a build without zlib.
[[nodiscard]] std::string read_input(const std::filesystem::path& path);

}  // namespace lab
