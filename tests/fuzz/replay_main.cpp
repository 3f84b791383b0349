// Runs every file of the folders named on the command line through a fuzz target once, so that a corpus serves as an
// ordinary test with any compiler.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::vector<std::filesystem::path> files_of(const char* folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

void replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  // The heap block ends where the input does, so that the address sanitizer sees a read past it.
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t num_files = 0;
  std::string running = "the command line";
  try {
    for (int i = 1; i < argc; ++i) {
      running = argv[i];
      for (const auto& path : files_of(argv[i])) {
        running = path.string();
        replay(path);
        ++num_files;
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", running.c_str(), error.what());
    return 1;
  }
  std::printf("replayed %zu files\n", num_files);
  if (num_files == 0) std::fprintf(stderr, "usage: %s folder ...\n", argv[0]);
  return num_files == 0 ? 1 : 0;
}
