#include <filesystem>
#include <system_error>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf.hpp"
#include "mini_engine/hf_folder.hpp"
#include "mini_engine/model_file.hpp"

namespace mini_engine {

std::unique_ptr<ModelFile> open_model(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    throw file_error(path, "cannot open", error ? error.message() : "no such file or folder");
  }
  if (std::filesystem::is_directory(status)) return HfFolder::open(path);
  if (path.ends_with(".safetensors") || path.ends_with(".json")) {
    throw file_error(path, "path", "is a part of a model; give the folder that holds it");
  }
  return GgufFile::open(path);
}

}  // namespace mini_engine
