// Malformed GGUF and safetensors files: every one is refused with an Error that names the file, the field and the
// place, whatever was done to it, and wherever it was cut off.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf.hpp"
#include "mini_engine/gguf_parse.hpp"
#include "mini_engine/safetensors.hpp"
#include "support/hostile_case.hpp"
#include "support/safetensors_writer.hpp"
#include "support/tiny_model.hpp"

namespace {

using Bytes = std::vector<std::byte>;

void open_gguf(const Bytes& bytes) { static_cast<void>(mini_engine::GgufFile(bytes, "hostile.gguf")); }

void open_safetensors(const Bytes& bytes) {
  static_cast<void>(mini_engine::parse_safetensors(bytes, "hostile.safetensors"));
}

template <class Open>
void check_refused(const std::vector<test_support::HostileCase>& cases, const std::string& file, Open open) {
  std::set<std::string> names;
  for (const auto& item : cases) {
    CAPTURE(item.name);
    CHECK(names.insert(item.name).second);
    std::string message = "accepted";
    try {
      open(item.bytes);
    } catch (const mini_engine::Error& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(message.rfind(file + ": " + item.field + " at byte " + std::to_string(item.offset) + ": ", 0) == 0);
    CHECK(message.find(item.reason) != std::string::npos);
  }
}

template <class Open>
void check_truncations(const Bytes& sound, Open open) {
  REQUIRE_NOTHROW(open(sound));
  for (std::size_t length = 0; length < sound.size(); ++length) {
    CAPTURE(length);
    // A vector of its own, so that the address sanitizer sees a read past the cut.
    const Bytes cut(sound.begin(), sound.begin() + static_cast<std::ptrdiff_t>(length));
    CHECK_THROWS_AS(open(cut), mini_engine::Error);
  }
}

/// Changes a few bytes at a time; whatever comes of it is accepted or an Error.
template <class Open>
void check_corruptions(const Bytes& sound, Open open) {
  std::mt19937_64 random(11);
  int num_refused = 0;
  for (int round = 0; round < 20000; ++round) {
    Bytes changed = sound;
    for (std::uint64_t i = 0; i <= random() % 3; ++i) {
      changed[random() % changed.size()] = static_cast<std::byte>(random() % 4 == 0 ? 0xFF : random() >> 56);
    }
    try {
      open(changed);
    } catch (const mini_engine::Error&) {
      ++num_refused;
    }
  }
  CHECK(num_refused > 1000);
}

Bytes sound_safetensors() {
  return test_support::write_safetensors({{"a", "F32", {2, 3}, Bytes(24)}, {"b", "BF16", {5}, Bytes(10)}});
}

}  // namespace

TEST_CASE("the file that the GGUF mutations start from is sound") {
  const auto file = test_support::to_gguf(test_support::minimal_model()).write();
  CHECK_NOTHROW(open_gguf(file.bytes));
}

TEST_CASE("every hostile GGUF file is refused with its file, field and offset") {
  const auto cases = test_support::hostile_gguf_files();
  CHECK(cases.size() > 80);
  check_refused(cases, "hostile.gguf", open_gguf);
}

TEST_CASE("every hostile safetensors file is refused with its file, field and offset") {
  const auto cases = test_support::hostile_safetensors_files();
  CHECK(cases.size() > 40);
  check_refused(cases, "hostile.safetensors", open_safetensors);
}

TEST_CASE("a GGUF file cut off anywhere is refused") {
  const auto file = test_support::to_gguf(test_support::minimal_model()).write();
  check_truncations(file.bytes, open_gguf);
}

TEST_CASE("what pads the last tensor of a GGUF file may be missing, and nothing may follow it") {
  auto image = test_support::to_gguf(test_support::minimal_model());
  std::swap(image.tensor("output_norm.weight"), image.tensors.back());  // 16 bytes of 32
  Bytes bytes = image.write().bytes;
  CHECK_NOTHROW(open_gguf(bytes));
  bytes.push_back(std::byte{0});
  CHECK_THROWS_AS(open_gguf(bytes), mini_engine::Error);
  CHECK_NOTHROW(open_gguf(Bytes(bytes.begin(), bytes.end() - 1 - 16)));
  CHECK_THROWS_AS(open_gguf(Bytes(bytes.begin(), bytes.end() - 1 - 17)), mini_engine::Error);
}

TEST_CASE("a safetensors file cut off anywhere is refused") {
  check_truncations(sound_safetensors(), open_safetensors);
}

TEST_CASE("bytes changed at random never do worse than an Error") {
  check_corruptions(test_support::to_gguf(test_support::minimal_model()).write().bytes, open_gguf);
  check_corruptions(sound_safetensors(), open_safetensors);
}

TEST_CASE("the alignment that a GGUF file asks for is the one used") {
  for (const std::uint32_t alignment : {1U, 8U, 32U, 4096U, 1U << 20}) {
    CAPTURE(alignment);
    auto image = test_support::to_gguf(test_support::minimal_model());
    image.alignment = alignment;
    image.erase_value("general.alignment");
    image.add_uint32("general.alignment", alignment);
    const auto file = image.write();
    CHECK_NOTHROW(open_gguf(file.bytes));
    const auto contents = mini_engine::parse_gguf(file.bytes, "aligned.gguf");
    CHECK(contents.tensors.front().offset == file.data_start);
    CHECK(contents.tensors.front().offset % alignment == 0);
  }
}

TEST_CASE("a version 2 file and one without general.alignment are read like any other") {
  auto image = test_support::to_gguf(test_support::minimal_model());
  image.version = 2;
  image.erase_value("general.alignment");
  CHECK_NOTHROW(open_gguf(image.write().bytes));
}

TEST_CASE("safetensors may list tensors in any order and pad the header with spaces") {
  const auto bytes = test_support::write_safetensors_raw(
      R"({"b":{"data_offsets":[4,10],"shape":[3],"dtype":"F16"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )",
      10);
  const auto contents = mini_engine::parse_safetensors(bytes, "f");
  REQUIRE(contents.tensors.size() == 2);
  CHECK(contents.tensors[0].name == "a");
  CHECK(contents.tensors[0].shape.empty());
  CHECK(contents.tensors[1].name == "b");
  CHECK(contents.tensors[1].offset == contents.header_end + 4);
  CHECK(contents.tensors[1].bytes.size() == 6);
}

TEST_CASE("a malformed index of shards is refused") {
  const auto complaint = [](const std::string& text) -> std::string {
    try {
      static_cast<void>(mini_engine::parse_safetensors_index(text, "index.json"));
    } catch (const mini_engine::Error& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(complaint(R"({"weight_map":{"a":"b.safetensors"}})") == "accepted");
  CHECK(complaint("[]") == "index.json: weight_map at byte 0: is missing or not an object");
  CHECK(complaint(R"({"weight_map":[]})") == "index.json: weight_map at byte 13: is missing or not an object");
  CHECK(complaint(R"({"weight_map":{"a":1}})") == "index.json: a at byte 18: the shard is not a string");
  CHECK(complaint(R"({"weight_map":{"a":"b.safetensors","a":"b.safetensors"}})") ==
        "index.json: a at byte 38: duplicate key");
  CHECK(complaint("{\"weight_map\":{\"a\":\"b\\u0000.safetensors\"}}").find("a at byte 18: the shard is not") !=
        std::string::npos);
}
