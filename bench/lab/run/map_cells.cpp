#include "lab/run/map_cells.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "lab/data/another_order.hpp"
#include "mini_engine/error.hpp"
#include "rag_bench/made_up.hpp"
#include "rag_demo/shuffle.hpp"

namespace lab {
namespace {

using mini_engine::TokenId;

/// What of a seed is used for what; other numbers than those of making cases.
enum Draw : std::uint64_t { kOtherPassages = 100, kFloorOrder, kReplacedTokens };

constexpr std::array kShifts = {0, 128, 512, 1024, 2048, 4096};
constexpr std::array kNumNeighbours = {0, 1, 2, 4, 8};
constexpr std::array kChunkTokens = {32, 64, 128, 256, 512};
constexpr std::array kDistances = {0, 256, 512, 1024, 2048};
constexpr std::array kFractions = {0.0, 0.02, 0.05, 0.1, 0.2};
constexpr std::size_t kNumOthers = 4;        // where their number is not the axis
constexpr std::size_t kQuestionTokens = 16;  // of running text
constexpr std::size_t kBetweenTokens = 256;  // of a passage between the gold one and the question
const std::string kBase = "reanchored-behind-system";

MapPlace at(const std::string& axis, std::variant<double, std::string> x) { return {.axis = axis, .x = std::move(x)}; }

}  // namespace

MapCells::MapCells(const CaseFile& file, std::string budget_policy, std::uint64_t seed)
    : file_(file), budget_policy_(std::move(budget_policy)), seed_(seed), nearest_(file.cases, kNumOthers) {}

const std::vector<std::string>& MapCells::axes() {
  static const std::vector<std::string> names = {"shift",    "neighbours", "neighbour_kind", "order",
                                                 "distance", "format",     "budget"};
  return names;
}

std::vector<MapCell> MapCells::make(const std::string& axis, std::size_t case_index) const {
  if (axis == "shift") return shift(case_index);
  if (axis == "neighbours") return neighbours(case_index);
  if (axis == "neighbour_kind") return neighbour_kind(case_index);
  if (axis == "order") return order(case_index);
  if (axis == "distance") return distance(case_index);
  if (axis == "format") return format(case_index);
  return budget(case_index);
}

/// What lies before the chunk, as the system prompt does, is seen by the question alone: reuse must lose nothing.
std::vector<MapCell> MapCells::shift(std::size_t index) const {
  std::vector<MapCell> cells;
  for (const int shift : kShifts) {
    Case one = prompt(index, {gold_tokens(index)}, 0);
    one.system = other_tokens(index, static_cast<std::size_t>(shift));
    for (const auto& [axis, arm] : {std::pair{"shift", "reanchored"}, std::pair{"shift_uncorrected", "reuse-local"}}) {
      cells.push_back({at(axis, double(shift)), one, parse_arm(arm), ArmSpec::Kind::kBlockMask});
    }
  }
  return cells;
}

std::vector<MapCell> MapCells::neighbours(std::size_t index) const {
  std::vector<MapCell> cells;
  for (const int chunk_tokens : kChunkTokens) {
    for (const int count : kNumNeighbours) {
      const auto size = static_cast<std::size_t>(chunk_tokens);
      const auto num_passages = static_cast<std::size_t>(count) + 1;
      const Tokens text = text_before(index, size * num_passages);
      if (text.empty()) continue;
      std::vector<Tokens> passages;
      for (std::size_t i = 0; i < num_passages; ++i) {
        const auto begin = text.begin() + static_cast<std::ptrdiff_t>(i * size);
        passages.emplace_back(begin, begin + chunk_tokens);
      }
      MapPlace place{.axis = "neighbours", .x = double(count), .y_axis = "chunk_tokens", .y = double(chunk_tokens)};
      cells.push_back({std::move(place), prompt(index, passages, num_passages - 1), parse_arm(kBase)});
    }
  }
  return cells;
}

std::vector<MapCell> MapCells::neighbour_kind(std::size_t index) const {
  const Tokens& gold = gold_tokens(index);
  const Case& source = file_.cases[index];
  std::vector<Tokens> near;
  for (const Tokens* const passage : nearest_.of(source.passages[gold_of(index)].id)) near.push_back(*passage);
  std::reverse(near.begin(), near.end());  // the nearest next to the gold one
  std::vector<Tokens> copies(kNumOthers, gold);
  std::mt19937_64 random = rag_bench::generator(seed_, kReplacedTokens, index);
  for (Tokens& copy : copies) {
    // A tenth of its tokens, replaced by tokens that it has elsewhere.
    std::vector<std::size_t> places(copy.size());
    std::iota(places.begin(), places.end(), std::size_t{0});
    rag_demo::shuffle(places, random);
    places.resize(std::max<std::size_t>(1, copy.size() / 10));
    for (const std::size_t place : places) copy[place] = gold[random() % gold.size()];
  }
  std::vector<MapCell> cells;
  const auto add = [&](const std::string& kind, std::vector<Tokens> passages) {
    if (passages.size() != kNumOthers) return;
    passages.push_back(gold);
    cells.push_back({at("neighbour_kind", kind), prompt(index, passages, kNumOthers), parse_arm(kBase)});
  };
  add("random", others(index, kNumOthers));
  add("similar", near);
  add("near-duplicate", copies);
  return cells;
}

std::vector<MapCell> MapCells::order(std::size_t index) const {
  const Case& source = file_.cases[index];
  std::vector<Tokens> rest;
  for (const std::size_t passage : source.served) {
    if (passage != gold_of(index)) rest.push_back(source.passages[passage].tokens);
  }
  if (rest.size() < 2) return {};
  std::vector<MapCell> cells;
  for (const auto& [name, rank] :
       {std::pair{"first", std::size_t{0}}, std::pair{"middle", rest.size() / 2}, std::pair{"last", rest.size()}}) {
    std::vector<Tokens> passages = rest;
    passages.insert(passages.begin() + static_cast<std::ptrdiff_t>(rank), gold_tokens(index));
    const Case one = prompt(index, passages, rank);
    for (const auto& [base, arm] :
         {std::pair<std::string, std::string>{"alone", "reanchored"}, {"behind system", kBase}}) {
      cells.push_back({{.axis = "order", .x = name, .y_axis = "base", .y = base}, one, parse_arm(arm)});
    }
  }
  return cells;
}

/// Two passages stand before the gold one, so that there is something to lose at any distance.
std::vector<MapCell> MapCells::distance(std::size_t index) const {
  const std::vector<Tokens> before = others(index, 2);
  std::vector<MapCell> cells;
  for (const int distance : kDistances) {
    std::vector<Tokens> passages = before;
    passages.push_back(gold_tokens(index));
    const Tokens between = other_tokens(index, static_cast<std::size_t>(distance));
    for (std::size_t i = 0; i < between.size(); i += kBetweenTokens) {
      const auto begin = between.begin() + static_cast<std::ptrdiff_t>(i);
      passages.emplace_back(begin, begin + kBetweenTokens);
    }
    cells.push_back({at("distance", double(distance)), prompt(index, passages, before.size()), parse_arm(kBase)});
  }
  return cells;
}

std::vector<MapCell> MapCells::format(std::size_t index) const {
  std::vector<MapCell> cells;
  for (const std::size_t count : {std::size_t{0}, kNumOthers}) {
    for (const std::string name : {"plain", "fp8", "int8", "int4"}) {
      const ArmSpec arm = parse_arm(name == "plain" ? kBase : "format:" + name);
      cells.push_back({{.axis = "format", .x = name, .y_axis = "neighbours", .y = double(count)},
                       behind_others(index, count),
                       arm});
    }
  }
  return cells;
}

std::vector<MapCell> MapCells::budget(std::size_t index) const {
  std::vector<MapCell> cells;
  for (const int count : kNumNeighbours) {
    if (count == 0) continue;
    const Case one = behind_others(index, static_cast<std::size_t>(count));
    for (const double fraction : kFractions) {
      const std::string arm = fraction == 0 ? kBase : fmt::format("{}+{}:{}", kBase, budget_policy_, fraction);
      cells.push_back(
          {{.axis = "budget", .x = fraction, .y_axis = "neighbours", .y = double(count)}, one, parse_arm(arm)});
    }
  }
  return cells;
}

Case MapCells::prompt(std::size_t index, const std::vector<Tokens>& passages, std::size_t gold_place) const {
  Case one = file_.cases[index];
  one.passages.clear();
  one.served.clear();
  one.answer_tokens.clear();
  for (std::size_t i = 0; i < passages.size(); ++i) {
    one.passages.push_back({.id = one.id + "." + std::to_string(i), .gold = i == gold_place, .tokens = passages[i]});
    one.served.push_back(i);
  }
  if (one.answers.empty()) one.question.resize(std::min(one.question.size(), kQuestionTokens));
  std::mt19937_64 random = rag_bench::generator(seed_, kFloorOrder, index);
  one.earlier = another_order(one.served, random);
  return one;
}

Case MapCells::behind_others(std::size_t index, std::size_t num_others) const {
  std::vector<Tokens> passages = others(index, num_others);
  passages.push_back(gold_tokens(index));
  return prompt(index, passages, passages.size() - 1);
}

std::size_t MapCells::gold_of(std::size_t index) const {
  const Case& one = file_.cases[index];
  for (const std::size_t passage : one.served) {
    if (one.passages[passage].gold) return passage;
  }
  return one.served.back();
}

const MapCells::Tokens& MapCells::gold_tokens(std::size_t index) const {
  return file_.cases[index].passages[gold_of(index)].tokens;
}

std::vector<MapCells::Tokens> MapCells::others(std::size_t index, std::size_t count) const {
  std::set<std::string> seen;
  for (const CasePassage& own : file_.cases[index].passages) seen.insert(own.id);
  std::vector<const Tokens*> pool;
  for (const Case& one : file_.cases) {
    for (const CasePassage& passage : one.passages) {
      if (seen.insert(passage.id).second) pool.push_back(&passage.tokens);
    }
  }
  std::vector<std::size_t> order(pool.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937_64 random = rag_bench::generator(seed_, kOtherPassages, index);
  rag_demo::shuffle(order, random);
  order.resize(std::min(order.size(), count));
  std::vector<Tokens> chosen;
  for (const std::size_t passage : order) chosen.push_back(*pool[passage]);
  return chosen;
}

MapCells::Tokens MapCells::other_tokens(std::size_t index, std::size_t count) const {
  Tokens tokens;
  for (const Tokens& passage : others(index, count)) {
    if (tokens.size() < count) tokens.insert(tokens.end(), passage.begin(), passage.end());
  }
  if (tokens.empty()) tokens = gold_tokens(index);
  for (std::size_t i = 0; tokens.size() < count; ++i) tokens.push_back(TokenId{tokens[i]});
  tokens.resize(count);
  return tokens;
}

MapCells::Tokens MapCells::text_before(std::size_t index, std::size_t count) const {
  // Backwards from the gold passage through its case, then through the cases before, the first after the last.
  std::vector<const Tokens*> pieces = {&gold_tokens(index)};
  std::size_t found = pieces[0]->size();
  for (std::size_t back = 0; back < file_.cases.size() && found < count; ++back) {
    const Case& one = file_.cases[(index + file_.cases.size() - back) % file_.cases.size()];
    for (auto passage = one.served.rbegin(); passage != one.served.rend() && found < count; ++passage) {
      if (back == 0 && *passage == gold_of(index)) continue;
      pieces.push_back(&one.passages[*passage].tokens);
      found += pieces.back()->size();
    }
  }
  if (found < count) return {};
  Tokens text;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    text.insert(text.end(), (*piece)->begin(), (*piece)->end());
  }
  text.erase(text.begin(), text.end() - static_cast<std::ptrdiff_t>(count));
  return text;
}

}  // namespace lab
