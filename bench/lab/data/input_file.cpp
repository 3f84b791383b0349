#include "lab/data/input_file.hpp"

#ifdef PIKV_LAB_ZLIB
#include <zlib.h>

#include <array>
#include <memory>
#endif

#include <span>
#include <string_view>

#include "mini_engine/error.hpp"
#include "mini_engine/mapped_file.hpp"

namespace lab {
namespace {

using mini_engine::Error;

#ifdef PIKV_LAB_ZLIB
constexpr std::size_t kMostBytes = std::size_t{1} << 30U;

std::string gunzip(const std::filesystem::path& path) {
  const std::unique_ptr<gzFile_s, decltype(&gzclose)> file(gzopen(path.c_str(), "rb"), &gzclose);
  if (!file) throw Error("cannot open " + path.string());
  std::string text;
  std::array<char, 1 << 16> buffer;
  int count = 0;
  while ((count = gzread(file.get(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(count));
    if (text.size() > kMostBytes) throw Error(path.string() + ": holds more than 1 GiB");
  }
  int code = Z_OK;
  const char* what = gzerror(file.get(), &code);
  if (count < 0 || code != Z_OK) throw Error(path.string() + ": damaged gzip: " + what);
  return text;
}
#else
std::string gunzip(const std::filesystem::path& path) {
  throw Error(path.string() +
              ": is gzip, and this was built without zlib (on Debian: apt-get install zlib1g-dev); "
              "gunzip it first");
}
#endif

}  // namespace

std::string read_input(const std::filesystem::path& path) {
  const mini_engine::MappedFile file(path.string());
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return bytes.starts_with("\x1F\x8B") ? gunzip(path) : std::string(bytes);
}

}  // namespace lab
