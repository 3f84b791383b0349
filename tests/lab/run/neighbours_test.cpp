// Passages nearest to a passage.
#include "lab/run/neighbours.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace {

using Tokens = std::vector<mini_engine::TokenId>;

TEST_CASE("neighbours share rare tokens, best first, and never are the passage itself") {
  lab::Case one;
  one.passages = {{.id = "a", .gold = false, .tokens = {1, 2, 3, 4}},
                  {.id = "b", .gold = false, .tokens = {1, 2, 3, 50}},
                  {.id = "c", .gold = false, .tokens = {1, 51, 52, 53}}};
  lab::Case two;  // "a" again, and one that shares nothing
  two.passages = {one.passages[0], {.id = "d", .gold = false, .tokens = {61, 62, 63, 64}}};
  const std::vector<lab::Case> cases = {one, two};
  const lab::Neighbours neighbours(cases, 2);
  const auto of_a = neighbours.of("a");
  REQUIRE(of_a.size() == 2);
  CHECK(*of_a[0] == Tokens{1, 2, 3, 50});
  CHECK(*of_a[1] == Tokens{1, 51, 52, 53});
  CHECK(*neighbours.of("c").at(0) != Tokens{1, 51, 52, 53});
  CHECK(lab::Neighbours(cases, 1).of("a").size() == 1);
}

}  // namespace
