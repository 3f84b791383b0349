#include "pikv/status.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <string>

namespace {

using pikv::ErrorCode;
using pikv::Result;
using pikv::Status;

TEST_CASE("a status is OK or carries a code and a message") {
  const Status fine;
  CHECK(fine.ok());
  CHECK(fine.code() == ErrorCode::kOk);
  CHECK(fine.message().empty());
  CHECK(fine.to_string() == "OK");
  const Status bad = pikv::invalid_argument("page_size is 0");
  CHECK_FALSE(bad.ok());
  CHECK(bad.code() == ErrorCode::kInvalidArgument);
  CHECK(bad.to_string() == "InvalidArgument: page_size is 0");
  const Status copy = bad;  // NOLINT(performance-unnecessary-copy-initialization): the copy is what is tested
  CHECK(copy.message() == bad.message());
  CHECK(sizeof(Status) <= 2 * sizeof(void*));
}

TEST_CASE("every code has a name of its own") {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    names.insert(pikv::error_code_name(static_cast<ErrorCode>(code)));
  }
  CHECK(names.size() == static_cast<std::size_t>(ErrorCode::kInternal) + 1);
  CHECK(names.count("Unknown") == 0);
  CHECK(std::string(pikv::error_code_name(static_cast<ErrorCode>(200))) == "Unknown");
}

TEST_CASE("a failure cannot call itself OK") {
  const Status status(ErrorCode::kOk, "confused");
  CHECK_FALSE(status.ok());
  CHECK(status.code() == ErrorCode::kInternal);
  const Result<int> result{Status()};
  CHECK_FALSE(result.ok());
  CHECK(result.status().code() == ErrorCode::kInternal);
}

TEST_CASE("a result holds a value or throws its status") {
  Result<std::unique_ptr<int>> owner(std::make_unique<int>(7));
  REQUIRE(owner.ok());
  CHECK(owner.status().ok());
  CHECK(**owner == 7);
  const std::unique_ptr<int> moved = std::move(owner).value();
  CHECK(*moved == 7);
  const Result<int> failed(pikv::unsupported("fp8"));
  CHECK_THROWS_AS(static_cast<void>(failed.value()), pikv::BadResult);
  try {
    static_cast<void>(failed.value());
  } catch (const pikv::BadResult& error) {
    CHECK(error.status().code() == ErrorCode::kUnsupported);
    CHECK(std::string(error.what()) == "Unsupported: fp8");
  }
}

Status fails_second(int& steps) {
  ++steps;
  PIKV_TRY(Status());
  ++steps;
  PIKV_TRY(pikv::out_of_memory("slab"));
  ++steps;
  return {};
}

TEST_CASE("PIKV_TRY leaves at the first failure") {
  int steps = 0;
  CHECK(fails_second(steps).code() == ErrorCode::kOutOfMemory);
  CHECK(steps == 2);
}

}  // namespace
