// Writes the seed corpora of the model-file fuzz targets: small sound files, and every malformed one that the tests
// know. Usage: make_model_corpus <folder>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "mini_engine/gguf_tensor_types.hpp"
#include "support/hostile_case.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temp_directory.hpp"
#include "support/tiny_model.hpp"

namespace {

using mini_engine::Encoding;

/// A file name made of a case's name.
std::string file_name(std::string text) {
  const auto is_plain = [](unsigned char letter) { return std::isalnum(letter) != 0; };
  std::replace_if(
      text.begin(), text.end(), [&](char letter) { return !is_plain(static_cast<unsigned char>(letter)); }, '_');
  return text;
}

void write_cases(const std::filesystem::path& folder, const std::vector<test_support::HostileCase>& cases) {
  for (const auto& item : cases) test_support::write_file(folder / ("bad_" + file_name(item.name)), item.bytes);
}

void write_gguf_corpus(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  const auto model = test_support::minimal_model();
  test_support::write_file(folder / "sound_minimal", test_support::to_gguf(model).write().bytes);
  auto untied = model;
  untied.config.tied_embeddings = false;
  untied.config.rope.frequency_divisors = {1.0F, 8.0F};
  untied.matrices = Encoding::kBF16;
  test_support::write_file(folder / "sound_untied_bf16", test_support::to_gguf(untied).write().bytes);
  // One block of every encoding, in a container that is no model.
  test_support::GgufImage blocks;
  for (const Encoding encoding :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1,
        Encoding::kQ5_0, Encoding::kQ5_1, Encoding::kQ4_K, Encoding::kQ6_K}) {
    const std::uint32_t type = mini_engine::gguf_type_of(encoding);
    const std::int64_t elements = mini_engine::block_size(encoding).elements;
    blocks.tensors.push_back({std::string(mini_engine::gguf_type_name(type)),
                              {static_cast<std::uint64_t>(elements)},
                              type,
                              test_support::random_blocks(encoding, elements, 1),
                              {},
                              {}});
  }
  test_support::write_file(folder / "sound_blocks", blocks.write().bytes);
  write_cases(folder, test_support::hostile_gguf_files());
}

void write_safetensors_corpus(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  test_support::write_file(folder / "sound_two",
                           test_support::write_safetensors({{"a", "F32", {2, 3}, std::vector<std::byte>(24)},
                                                            {"b", "BF16", {5}, std::vector<std::byte>(10)}}));
  auto model = test_support::minimal_model();
  test_support::write_file(folder / "sound_config", test_support::hf_config_json(model.config));
  model.config.rope.scaling = mini_engine::RopeScaling::kLlama3;
  test_support::write_file(folder / "sound_config_llama3", test_support::hf_config_json(model.config));
  test_support::write_file(folder / "sound_index",
                           std::string_view(R"({"metadata":{},"weight_map":{"a":"b.safetensors"}})"));
  test_support::write_file(folder / "bad_index_path", std::string_view(R"({"weight_map":{"a":"../b.safetensors"}})"));
  write_cases(folder, test_support::hostile_safetensors_files());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s folder\n", argv[0]);
    return 2;
  }
  try {
    const std::filesystem::path folder(argv[1]);
    write_gguf_corpus(folder / "gguf");
    write_safetensors_corpus(folder / "safetensors");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
