// Files of results: what a stopped run goes on with, and what is refused.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "lab/run/result.hpp"
#include "mini_engine/error.hpp"
#include "support/temp_directory.hpp"

namespace {

using test_support::TempDirectory;
using test_support::write_file;

lab::ArmResult some_result() {
  lab::ArmResult result;
  result.kl = {0.25, 0.75};
  result.v_err = {0.5, 1.5};
  return result;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("a run goes on behind the last whole line") {
  const TempDirectory folder;
  const std::filesystem::path path = folder.path() / "results.jsonl";
  {
    lab::ResultFile file(path);
    file.add("s", "q1", "c", lab::parse_arm("full"), some_result());
  }
  const std::string whole = text_of(path);
  CHECK(whole.find(R"("kl":0.5,)") != std::string::npos);
  write_file(path, whole + R"({"case":"q2","arm":"full")");
  lab::ResultFile file(path);
  CHECK(text_of(path) == whole);
  CHECK(file.contains("q1", "full"));
  CHECK_FALSE(file.contains("q1", "reanchored"));
  CHECK_FALSE(file.contains("q2", "full"));
  file.add("s", "q2", "c", lab::parse_arm("full"), some_result());
  CHECK(file.contains("q2", "full"));
}

TEST_CASE("lines of something else are refused by file and line") {
  const TempDirectory folder;
  const std::filesystem::path path = folder.path() / "results.jsonl";
  const std::string sound = "{\"case\":\"q1\",\"arm\":\"full\"}\n";
  for (const std::string line : {"not JSON", "[1]", "{\"case\":\"q1\"}", "{\"case\":1,\"arm\":\"full\"}"}) {
    CAPTURE(line);
    write_file(path, sound + line + "\n");
    const std::string expected = path.string() + ":2: is no result of a case and an arm";
    CHECK_THROWS_WITH_AS(lab::ResultFile{path}, expected.c_str(), mini_engine::Error);
    CHECK(text_of(path) == sound + line + "\n");
  }
  CHECK_THROWS_AS(lab::ResultFile(folder.path() / "no" / "folder"), mini_engine::Error);
}

TEST_CASE("points of the map are told apart by all their axes") {
  const TempDirectory folder;
  const std::filesystem::path path = folder.path() / "map.jsonl";
  const lab::MapPlace one{.axis = "budget", .x = 0.1, .y_axis = "neighbours", .y = 4.0};
  lab::MapPlace other = one;
  other.y = 8.0;
  {
    lab::MapFile file(path);
    file.add("s", "q1", one, some_result(), 0.125);
  }
  const std::string line = text_of(path);
  for (const char* part : {R"("axis":"budget")", R"("x":0.1)", R"("y_axis":"neighbours")", R"("y":4.0)", R"("kl":0.5)",
                           R"("v_err":1.0)", R"("floor":0.125)", R"("kind":"map")"}) {
    CHECK_MESSAGE(line.find(part) != std::string::npos, line, " lacks ", part);
  }
  lab::MapFile file(path);
  CHECK(file.contains("q1", one.name()));
  CHECK_FALSE(file.contains("q1", other.name()));
  CHECK_FALSE(file.contains("q2", one.name()));
  file.add("s", "q1", {.axis = "order", .x = "first"}, some_result(), {});
  CHECK(text_of(path).find("floor", line.size()) == std::string::npos);
}

}  // namespace
