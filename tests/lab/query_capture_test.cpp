// What is kept of a pass's queries.
#include "lab/query_capture.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "lab/observer_chain.hpp"
#include "lab/prompt_runs.hpp"

namespace {

using lab::QueryCapture;
using mini_engine::CacheMemory;
using mini_engine::TurnedQueries;
using Rows = std::vector<std::int32_t>;

/// Keeps all queries of one pass, straight from the call.
struct AllQueries : mini_engine::PassObserver {
  void on_queries(int, const TurnedQueries& queries) override {
    layers.push_back(lab::read_queries(queries, CacheMemory::kHost, 6 * 16));
  }
  std::vector<lab::QueryRows> layers;
};

TEST_CASE("queries of the chosen rows are kept, whichever pass computes them") {
  test_support::LabWorld world;
  const auto tokens = test_support::random_tokens(40, 101, 1);
  AllQueries all;
  const mini_engine::Sequence whole = world.computed(tokens, &all);
  REQUIRE(all.layers.size() == 3);
  REQUIRE(all.layers[0].elements.size() == 40 * 96);

  QueryCapture capture(world.model.config(), CacheMemory::kHost, Rows{39, 7, 25});
  mini_engine::Sequence parts(world.cache);
  parts.grow(40);
  // Row 7 is computed twice; so are the rows the first pass leaves behind it.
  for (const auto& [begin, end] : {std::pair{0, 26}, std::pair{5, 20}, std::pair{20, 40}}) {
    (void)test_support::run_rows(world.model, parts, tokens, begin, end, {}, &capture);
  }
  for (int layer = 0; layer < 3; ++layer) {
    const lab::QueryRows& kept = capture.layer(layer);
    CHECK(kept.rows == Rows{7, 25, 39});
    REQUIRE(kept.elements.size() == 3 * 96);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto expected = std::span(all.layers[static_cast<std::size_t>(layer)].elements)
                                .subspan(static_cast<std::size_t>(kept.rows[i]) * 96, 96);
      CHECK(test_support::relative_error(std::span<const float>(kept.elements).subspan(i * 96, 96),
                                         std::span<const float>(expected)) < 1e-5);
    }
  }
}

TEST_CASE("strides and precision of what an observer is shown") {
  mini_engine::ModelConfig config = test_support::small_config();
  config.num_layers = 1;
  config.num_heads = 1;
  config.head_dim = 4;
  const std::vector<std::uint16_t> elements = {0x3F80, 0x4000, 0xBF80, 0, 9, 9, 0x4040, 0x3F00, 0, 0x3F80};
  const Rows rows = {3, 8};
  const TurnedQueries shown{
      .precision = mini_engine::Precision::kBFloat16, .rows = rows, .row_stride = 6, .data = elements.data()};
  const lab::QueryRows read = lab::read_queries(shown, CacheMemory::kHost, 4);
  CHECK(read.rows == rows);
  CHECK(read.elements == std::vector<float>{1, 2, -1, 0, 3, 0.5F, 0, 1});
  QueryCapture capture(config, CacheMemory::kHost, Rows{8, 9});
  capture.on_queries(0, shown);
  CHECK(capture.layer(0).rows == Rows{8});
  CHECK(capture.layer(0).elements == std::vector<float>{3, 0.5F, 0, 1});
}

TEST_CASE("of a chain's observers all see and the first one decides") {
  struct Deciding : mini_engine::PassObserver {
    explicit Deciding(std::int32_t row) : row_(row) {}
    std::optional<Rows> rows_that_go_on(int) override { return Rows{row_}; }
    bool attend(int, const TurnedQueries&, void* out) override {
      *static_cast<std::int32_t*>(out) = row_;
      return true;
    }
    void before_layer(int) override { ++num_layers; }
    int num_layers = 0;

   private:
    std::int32_t row_;
  };
  AllQueries first;
  Deciding second(2), third(3);
  lab::ObserverChain chain({&first, nullptr, &second, &third});
  std::int32_t out = 0;
  CHECK(chain.rows_that_go_on(0) == Rows{2});
  CHECK(chain.attend(0, {}, &out));
  CHECK(out == 2);
  chain.before_layer(0);
  CHECK(second.num_layers == 1);
  CHECK(third.num_layers == 1);
  chain.on_queries(0, {});
  CHECK(first.layers.size() == 1);
  lab::ObserverChain idle({&first});
  CHECK_FALSE(idle.rows_that_go_on(0).has_value());
  CHECK_FALSE(idle.attend(0, {}, &out));
}

}  // namespace
