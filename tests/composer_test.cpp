// Composer::plan(): which kind of reuse goes where, what is claimed of it, and what is refused.
#include "pikv/composer.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/kv_world.hpp"

namespace {

using pikv::Anchor;
using pikv::ChunkRecipe;
using pikv::MissReason;
using pikv::PlannedPrompt;
using pikv::PlanPiece;
using pikv::Prompt;
using pikv::Provenance;
using pikv::Result;
using test_support::token_run;
using test_support::World;
using test_support::WorldOptions;
using Tokens = std::vector<pikv::TokenId>;

/// A plan in a word: for each piece the first letter of its provenance (exact Prefix, exact Segment, Approximate,
/// Fresh), its rows, and why it missed.
std::string outline(const pikv::CompositionPlan& plan) {
  std::string text;
  for (const PlanPiece& piece : plan.pieces()) {
    if (!text.empty()) text += ' ';
    switch (piece.provenance) {
      case Provenance::kExactPrefix:
        text += 'P';
        break;
      case Provenance::kExactSegment:
        text += 'S';
        break;
      case Provenance::kApproximate:
        text += 'A';
        break;
      case Provenance::kRepaired:
        text += 'R';
        break;
      case Provenance::kFresh:
        text += 'F';
        break;
    }
    text += std::to_string(piece.row_begin) + "-" + std::to_string(piece.row_end);
    if (piece.miss != MissReason::kNone) text += std::string("!") + pikv::miss_reason_name(piece.miss);
  }
  return text;
}

std::string outline(const Result<PlannedPrompt>& planned) {
  return planned.ok() ? outline(planned->plan) : std::string(planned.status().message());
}

const Tokens kSystem = token_run(100, 10);
const Tokens kDocA = token_run(1000, 12);
const Tokens kDocB = token_run(2000, 7);
const Tokens kQuestion = token_run(9000, 5);

}  // namespace

TEST_CASE("composer: a cold store computes everything and says why") {
  World world;
  Prompt prompt;
  prompt.add_fresh(kSystem);
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_chunk(kDocB, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  const auto planned = world.composer().plan(prompt);
  CHECK(outline(planned) == "F0-10 F10-29!NotFound F29-34");
  REQUIRE(planned.ok());
  CHECK(planned->lookups.size() == planned->plan.pieces().size());
  CHECK(planned->plan.stats().bytes_to_move == 0);
  CHECK(planned->plan.exact_rows() == 34);
}

TEST_CASE("composer: hits and misses side by side") {
  World world;
  const pikv::ChunkHandle a = world.put(ChunkRecipe::alone(), kDocA);
  Prompt prompt;
  prompt.add_fresh(kSystem);
  prompt.add_chunk(kDocB, ChunkRecipe::alone());
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  const auto planned = world.composer().plan(prompt);
  REQUIRE(outline(planned) == "F0-10 F10-17!NotFound A17-29 F29-34 A34-46 F46-51");
  const PlanPiece& piece = planned->plan.pieces()[4];
  CHECK(piece.source == PlanPiece::Source::kChunk);
  CHECK(piece.key == a->key());
  CHECK(piece.chunk_first_token == 0);
  CHECK(piece.chunk_num_tokens == 12);
  CHECK(piece.first_position == 34);
  CHECK(planned->lookups[4].chunk == a);
  CHECK(planned->plan.exact_rows() == 17);

  const auto without_chunks = world.composer_with({.use_chunks = false, .prefix_block_tokens = 8}).plan(prompt);
  CHECK(outline(without_chunks) == "F0-51");
}

TEST_CASE("composer: the longest exact prefix comes first, then the rest of the chunk it ends in") {
  World world;
  Prompt prompt;
  prompt.add_fresh(kSystem);
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_chunk(kDocB, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  world.put(ChunkRecipe::alone(), kDocA);
  world.put(ChunkRecipe::alone(), kDocB);
  CHECK(outline(world.composer().plan(prompt)) == "F0-10 A10-22 A22-29 F29-34");

  world.put_prefix(prompt.tokens(), 1);
  CHECK(outline(world.composer().plan(prompt)) == "P0-8 F8-10 A10-22 A22-29 F29-34");

  world.put_prefix(prompt.tokens(), 2);
  const auto planned = world.composer().plan(prompt);
  REQUIRE(outline(planned) == "P0-8 P8-16 A16-22 A22-29 F29-34");
  CHECK(planned->plan.pieces()[1].key == world.block_key(prompt.tokens(), 1));
  CHECK(planned->plan.pieces()[2].chunk_first_token == 6);
  CHECK(planned->plan.pieces()[2].chunk_num_tokens == 12);
  CHECK(planned->plan.pieces()[2].first_position == 16);

  world.put_prefix(prompt.tokens(), 4);
  CHECK(outline(world.composer().plan(prompt)) == "P0-8 P8-16 P16-24 P24-32 F32-34");
  CHECK(outline(world.composer_with({.use_chunks = false, .prefix_block_tokens = 8}).plan(prompt)) ==
        "P0-8 P8-16 P16-24 P24-32 F32-34");
  CHECK(outline(world.composer_with({.use_exact_prefix = false, .prefix_block_tokens = 8}).plan(prompt)) ==
        "F0-10 A10-22 A22-29 F29-34");
  CHECK(outline(world.composer_with({.prefix_block_tokens = 4}).plan(prompt)) == "F0-10 A10-22 A22-29 F29-34");
}

TEST_CASE("composer: a prefix with a hole ends at the hole") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 30));
  world.put_prefix(prompt.tokens(), 3);
  REQUIRE(world.store().erase(world.block_key(prompt.tokens(), 1)).ok());
  CHECK(outline(world.composer().plan(prompt)) == "P0-8 F8-30");
}

TEST_CASE("composer: other text before a block is another block") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 30));
  world.put_prefix(prompt.tokens(), 3);
  Tokens other = token_run(1, 30);
  other[7] = 77;
  Prompt changed;
  changed.add_fresh(other);
  CHECK(outline(world.composer().plan(changed)) == "F0-30");
  other = token_run(1, 30);
  other[8] = 77;
  changed = Prompt();
  changed.add_fresh(other);
  CHECK(outline(world.composer().plan(changed)) == "P0-8 F8-30");
}

TEST_CASE("composer: the last row is always computed") {
  World world;
  world.put(ChunkRecipe::alone(), kDocA);
  Prompt whole;
  whole.add_chunk(kDocA, ChunkRecipe::alone());
  CHECK(outline(world.composer().plan(whole)) == "S0-11 F11-12");

  Prompt blocks;  // every block is stored, and the last one must not be used whole
  blocks.add_fresh(token_run(1, 16));
  world.put_prefix(blocks.tokens(), 2);
  CHECK(outline(world.composer().plan(blocks)) == "P0-8 F8-16");

  const Tokens one{5};
  world.put(ChunkRecipe::alone(), one);
  Prompt single;
  single.add_chunk(one, ChunkRecipe::alone());
  const std::int64_t num_lookups = world.store().stats().lookups;
  CHECK(outline(world.composer().plan(single)) == "F0-1");
  CHECK(world.store().stats().lookups == num_lookups);  // nothing of it could have been used

  Prompt ends_with_one;
  ends_with_one.add_chunk(kDocA, ChunkRecipe::alone());
  ends_with_one.add_chunk(one, ChunkRecipe::alone());
  CHECK(outline(world.composer().plan(ends_with_one)) == "S0-12 F12-13");
}

TEST_CASE("composer: what is claimed to be exact") {
  World world;
  world.put(ChunkRecipe::alone(), kDocA);
  world.put(ChunkRecipe::alone(), kDocB);
  const ChunkRecipe behind_system = world.behind(kSystem);
  world.put(behind_system, kDocA);
  const ChunkRecipe behind_a = world.behind(kDocA);
  world.put(behind_a, kDocB);

  SUBCASE("a chunk alone at row 0, and behind nothing else") {
    Prompt prompt;
    prompt.add_chunk(kDocA, ChunkRecipe::alone());
    prompt.add_chunk(kDocB, ChunkRecipe::alone());
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "S0-12 A12-19 F19-24");
  }
  SUBCASE("behind exactly its prefix, computed") {
    Prompt prompt;
    prompt.add_fresh(kSystem);
    prompt.add_chunk(kDocA, behind_system);
    prompt.add_chunk(kDocB, ChunkRecipe::alone());
    prompt.add_fresh(kQuestion);
    const auto planned = world.composer().plan(prompt);
    REQUIRE(outline(planned) == "F0-10 S10-22 A22-29 F29-34");
    CHECK(planned->plan.exact_rows() == 22);
  }
  SUBCASE("behind exactly its prefix, in pieces of any cut") {
    Prompt prompt;
    prompt.add_fresh(std::span(kSystem).first(3));
    prompt.add_fresh(std::span(kSystem).subspan(3));
    prompt.add_chunk(kDocA, behind_system);
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "F0-10 S10-22 F22-27");
  }
  SUBCASE("behind an exact segment that is its prefix") {
    Prompt prompt;
    prompt.add_chunk(kDocA, ChunkRecipe::alone());
    prompt.add_chunk(kDocB, behind_a);
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "S0-12 S12-19 F19-24");
  }
  SUBCASE("behind the same tokens, when they are approximate themselves") {
    Prompt prompt;
    prompt.add_chunk(kDocA, ChunkRecipe::alone(), Anchor::at(3));
    prompt.add_chunk(kDocB, behind_a);
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "A0-12 A12-19 F19-24");
  }
  SUBCASE("elsewhere") {
    Prompt prompt;
    prompt.add_fresh(kQuestion);
    prompt.add_chunk(kDocA, behind_system);
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "F0-5 A5-17 F17-22");
  }
  SUBCASE("without its prefix") {
    Prompt prompt;
    prompt.add_chunk(kDocA, behind_system);
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "A0-12 F12-17");
  }
  SUBCASE("behind its prefix and something more") {
    Prompt prompt;
    prompt.add_fresh(kSystem);
    prompt.add_fresh(Tokens{1});
    prompt.add_chunk(kDocA, behind_system);
    prompt.add_fresh(kQuestion);
    CHECK(outline(world.composer().plan(prompt)) == "F0-11 A11-23 F23-28");
  }
  SUBCASE("the rest of an exact chunk that a prefix ends in") {
    Prompt prompt;
    prompt.add_chunk(kDocA, ChunkRecipe::alone());
    prompt.add_fresh(kQuestion);
    world.put_prefix(prompt.tokens(), 1);
    CHECK(outline(world.composer().plan(prompt)) == "P0-8 S8-12 F12-17");
  }
}

TEST_CASE("composer: anchors that are not in place are kept, and approximate") {
  World world;
  world.put(ChunkRecipe::alone(), kDocA);
  Prompt prompt;
  prompt.add_chunk(kDocA, ChunkRecipe::alone(), Anchor::at(0));  // at 0, which is its place, but not said to be
  prompt.add_chunk(kDocA, ChunkRecipe::alone(), Anchor::at(0));
  prompt.add_chunk(kDocA, ChunkRecipe::alone(), Anchor::at(244));
  prompt.add_fresh(kQuestion);
  const auto planned = world.composer().plan(prompt);
  REQUIRE(outline(planned) == "A0-12 A12-24 A24-36 F36-41");
  CHECK(planned->plan.pieces()[0].first_position == 0);
  CHECK(planned->plan.pieces()[1].first_position == 0);
  CHECK(planned->plan.pieces()[2].first_position == 244);

  world.put_prefix(prompt.tokens(), 2);  // the prefix ends in the middle of the second chunk
  const auto behind_prefix = world.composer().plan(prompt);
  REQUIRE(outline(behind_prefix) == "P0-8 P8-16 A16-24 A24-36 F36-41");
  CHECK(behind_prefix->plan.pieces()[2].chunk_first_token == 4);
  CHECK(behind_prefix->plan.pieces()[2].first_position == 4);
}

TEST_CASE("composer: frequencies that depend on the length leave nothing exact") {
  World world(WorldOptions{.dynamic_ntk = true, .tiers = {}});
  REQUIRE(world.keyer().rope().depends_on_length());
  world.put(ChunkRecipe::alone(), kDocA);
  Prompt prompt;
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_chunk(kDocB, world.behind(kDocA));
  prompt.add_fresh(kQuestion);
  world.put(world.behind(kDocA), kDocB);
  world.put_prefix(prompt.tokens(), 2);
  CHECK(outline(world.composer().plan(prompt)) == "A0-12 A12-19 F19-24");
}

TEST_CASE("composer: prompts that are wrong are refused, whatever the store holds") {
  World world;
  const auto refused = [&](const Prompt& prompt) {
    const auto planned = world.composer().plan(prompt);
    if (planned.ok()) return std::string("accepted as ") + outline(planned);
    CHECK(planned.status().code() == pikv::ErrorCode::kInvalidArgument);
    CHECK(world.composer().compose(prompt).status().message() == planned.status().message());
    return std::string(planned.status().message());
  };
  const auto contains = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };

  CHECK(contains(refused(Prompt()), "no tokens"));
  Prompt longest;
  longest.add_fresh(token_run(0, 256));
  CHECK(world.composer().plan(longest).ok());
  longest.add_fresh(Tokens{1});
  CHECK(contains(refused(longest), "257 rows"));

  const auto with_chunk = [](const ChunkRecipe& recipe, Anchor anchor) {
    Prompt prompt;
    prompt.add_fresh(kSystem);
    prompt.add_chunk(kDocA, recipe, anchor);
    prompt.add_fresh(kQuestion);
    return prompt;
  };
  for (const bool warm : {false, true}) {
    CAPTURE(warm);
    if (warm) {
      world.put(ChunkRecipe::alone(), kDocA);
      world.put_prefix(with_chunk(ChunkRecipe::alone(), Anchor::in_place()).tokens(), 3);  // covers the chunk
    }
    CHECK(contains(refused(with_chunk(ChunkRecipe::exact_context(world.keyer().empty_context()), Anchor::in_place())),
                   "row 10 has an exact-context recipe"));
    CHECK(contains(refused(with_chunk(ChunkRecipe::alone(), Anchor::at(245))), "row 10 is anchored at 245"));
    CHECK(contains(refused(with_chunk(ChunkRecipe::alone(), Anchor::at(-1))), "anchored at -1"));
    CHECK(contains(refused(with_chunk(ChunkRecipe::alone(), Anchor::at(std::numeric_limits<pikv::Position>::max()))),
                   "anchored at 2147483647"));
    CHECK(world.composer().plan(with_chunk(ChunkRecipe::alone(), Anchor::at(244))).ok());
  }
}

TEST_CASE("composer: parts that disagree are refused") {
  World world;
  const auto refused = [&](const pikv::ChunkKeyer& keyer, const pikv::RopeTable& table,
                           const pikv::ComposerOptions& options) {
    const auto composer = pikv::Composer::create(world.store(), world.backend(), keyer, table, options);
    return composer.ok() ? "accepted" : std::string(composer.status().message());
  };
  CHECK(refused(world.keyer(), world.table(), {}) == "accepted");
  CHECK(refused(world.keyer(), world.table(), {.prefix_block_tokens = 1}) == "accepted");
  CHECK(refused(world.keyer(), world.table(), {.prefix_block_tokens = 0}) == "composer: prefix_block_tokens is 0");
  CHECK(refused(world.keyer(), world.table(), {.prefix_block_tokens = std::numeric_limits<std::int32_t>::min()})
            .find("prefix_block_tokens") != std::string::npos);

  World other(WorldOptions{.dtype = pikv::DType::kFloat32, .tiers = {}});
  CHECK(refused(other.keyer(), world.table(), {}).find("different geometries") != std::string::npos);

  const pikv::RopeConfig rope(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  const pikv::RopeTable wide = pikv::RopeTable::build(rope, 16, 64).value();
  CHECK(refused(world.keyer(), wide, {}).find("turns 16 channels, the geometry says 8") != std::string::npos);
  const pikv::RopeConfig interleaved(10000.0, pikv::Pairing::kInterleaved, pikv::AngleRule::kExact);
  const pikv::RopeTable paired = pikv::RopeTable::build(interleaved, 8, 64).value();
  CHECK(refused(world.keyer(), paired, {}).find("pair channels differently") != std::string::npos);
}

TEST_CASE("composer: a block size beyond every prompt finds no prefix") {
  World world;
  Prompt prompt;
  prompt.add_fresh(kQuestion);
  CHECK(outline(world.composer_with({.prefix_block_tokens = std::numeric_limits<std::int32_t>::max()}).plan(prompt)) ==
        "F0-5");
}
