// A file mapped into memory for reading.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace mini_engine {

/// The bytes stay valid, and at the same address, for the life of the object, moves included. A file that another
/// process shortens meanwhile raises SIGBUS on access, as with every mapping: model files are replaced, never edited.
class MappedFile {
 public:
  /// Throws Error when `path` cannot be opened, is not a regular file or cannot be mapped. An empty file is fine.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

/// Tells the system that these bytes of a mapped file are about to be read, which it may then do in large pieces. Any
/// other memory is fine, and nothing comes of it.
void prefetch(std::span<const std::byte> mapped) noexcept;

}  // namespace mini_engine
