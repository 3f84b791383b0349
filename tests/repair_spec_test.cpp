// Specs of repair policies: canonical names, and a message for everything that is not a spec.
#include <doctest/doctest.h>

#include <limits>
#include <string>

#include "pikv/repair_policies.hpp"

namespace {

struct GoodSpec {
  const char* spec;
  const char* name;
};

constexpr GoodSpec kGoodSpecs[] = {
    {"none", "none"},
    {"all", "all"},
    {"first:16", "first:16"},
    {"first:016,skip=0", "first:16"},
    {"first:1,skip=2", "first:1,skip=2"},
    {"first:skip=2,3", nullptr},
    {"ends:8", "ends:8"},
    {"blend:0.15", "blend:0.15"},
    {"blend:0.150,layer=1,signal=v", "blend:0.15"},
    {"blend:1,signal=kv,layer=12", "blend:1,layer=12,signal=kv"},
    {"blend:0.00000001", "blend:0.00000001"},
    {"blend:0.1,layer=2147483646", "blend:0.1,layer=2147483646"},
    {"blend-gradual:0.15,layers=1+2+3", "blend-gradual:0.15"},
    {"blend-gradual:0.15,layers=1+2+4,signal=k", "blend-gradual:0.15,layers=1+2+4,signal=k"},
    {"attention:0.15", "attention:0.15"},
    {"prophet:0.2", "prophet:0.2"},
    {"attended-deviation:0.2,layer=2", "attended-deviation:0.2,layer=2"},
    {"focus:0.15,mass=0.8,stop=0.25", "focus:0.15,stop=0.25"},
    {"random:0.15,seed=18446744073709551615", "random:0.15,seed=18446744073709551615"},
    {"random:0,seed=0", "random:0"},
    {"budget:0.02", "budget:0.02"},
    {"budget:0,most=0.1,start=0.05,keys=1,values=1,unit=kl", "budget:0"},
    {"budget:0.1,values=0,unit=f1,most=0.2,start=0.1,keys=0.5",
     "budget:0.1,unit=f1,most=0.2,start=0.1,keys=0.5,values=0"},
};

struct BadSpec {
  const char* spec;
  const char* message;  ///< between "make_repair_policy: '<spec>': " and the remedy
  const char* remedy;
};

constexpr const char* kBudget =
    "the form is budget:TOLERANCE[,unit=kl|f1][,most=FRACTION][,start=FRACTION][,keys=GAIN][,values=GAIN]";
constexpr const char* kNames =
    "there are none, all, first, ends, blend, blend-gradual, attention, prophet, attended-deviation, focus, budget, "
    "random";
constexpr const char* kBlend = "the form is blend:FRACTION[,layer=LAYER][,signal=v|k|kv]";
constexpr const char* kGradual = "the form is blend-gradual:FRACTION[,layers=A+B+...][,signal=v|k|kv]";
constexpr const char* kFirst = "the form is first:ROWS[,skip=CHUNKS]";
constexpr const char* kLayers = "is not whole numbers of 32 bits with a plus between them";

const BadSpec kBadSpecs[] = {
    {"", "there is no policy ''", kNames},
    {":0.1", "there is no policy ''", kNames},
    {"Blend:0.1", "there is no policy 'Blend'", kNames},
    {" none", "there is no policy ' none'", kNames},
    {"none,all", "there is no policy 'none,all'", kNames},
    {"cache-craft:1", "needs statistics of chunks, which a spec cannot bring", "use make_cache_craft_policy()"},
    {"none:1", "'1': none takes no value", "the form is none"},
    {"none:", "nothing stands behind the colon", "the form is none"},
    {"all:seed=1", "seed: there is no such option", "the form is all"},
    {"first", "rows: is missing", kFirst},
    {"first:skip=1", "rows: is missing", kFirst},
    {"first:0", "first: rows: 0 is less than 1", kFirst},
    {"first:-1", "rows: '-1' is not a whole number of 32 bits", kFirst},
    {"first:+1", "rows: '+1' is not a whole number of 32 bits", kFirst},
    {"first:1.5", "rows: '1.5' is not a whole number of 32 bits", kFirst},
    {"first:2147483648", "rows: '2147483648' is not a whole number of 32 bits", kFirst},
    {"first:16,skip=", "skip: '' is not a whole number of 32 bits", kFirst},
    {"first:16,skip", "skip: 'skip' is not an option with a value", kFirst},
    {"first:16,skip=1,skip=1", "skip: is given twice", kFirst},
    {"first:16,", "a comma without an option", kFirst},
    {"first:,16", "nothing stands behind the colon", kFirst},
    {"first:16,,skip=1", "a comma without an option", kFirst},
    {"first:16,Skip=1", "Skip: there is no such option", kFirst},
    {"first:16,=1", ": there is no such option", kFirst},
    {"ends:0", "ends: rows: 0 is less than 1", "the form is ends:ROWS"},
    {"blend", "fraction: is missing", kBlend},
    {"blend:", "nothing stands behind the colon", kBlend},
    {"blend:1.5", "blend: fraction: 1.500000 is not within [0, 1]", kBlend},
    {"blend:-0.1", "fraction: '-0.1' is not a decimal number", kBlend},
    {"blend:nan", "fraction: 'nan' is not a decimal number", kBlend},
    {"blend:inf", "fraction: 'inf' is not a decimal number", kBlend},
    {"blend:1e-1", "fraction: '1e-1' is not a decimal number", kBlend},
    {"blend:.5", "fraction: '.5' is not a decimal number", kBlend},
    {"blend:0.1 ", "fraction: '0.1 ' is not a decimal number", kBlend},
    {"blend:15%", "fraction: '15%' is not a decimal number", kBlend},
    {"blend:0x1", "fraction: '0x1' is not a decimal number", kBlend},
    {"blend:0.1:0.2", "fraction: '0.1:0.2' is not a decimal number", kBlend},
    {"blend:0.1,0.2", "0.2: '0.2' is not an option with a value", kBlend},
    {"blend:0.1,layer=0", "blend: layer: 0 is less than 1", kBlend},
    {"blend:0.1,layer=2147483647", "blend: layer: no model has a layer 2147483647", kBlend},
    {"blend:0.1,layer=one", "layer: 'one' is not a whole number of 32 bits", kBlend},
    {"blend:0.1,signal=q", "signal: 'q' is not v, k or kv", kBlend},
    {"blend:0.1,layers=1+2", "layers: there is no such option", kBlend},
    {"blend-gradual:0.1,layers=", "layers: '' is not whole numbers of 32 bits with a plus between them", kGradual},
    {"blend-gradual:0.1,layers=1+", nullptr, kLayers},
    {"blend-gradual:0.1,layers=1;2", nullptr, kLayers},
    {"blend-gradual:0.1,layers=0+1", "blend-gradual: layers: 0 is less than 1", kGradual},
    {"blend-gradual:0.1,layers=2+2", "blend-gradual: layers: 2 is less than 3", kGradual},
    {"blend-gradual:0.1,layers=3+1", "blend-gradual: layers: 1 is less than 4", kGradual},
    {"attention:2", "attention: fraction: 2.000000 is not within [0, 1]", "the form is attention:FRACTION"},
    {"attention:0.1,layer=1", "layer: there is no such option", "the form is attention:FRACTION"},
    {"prophet", "fraction: is missing", "the form is prophet:FRACTION"},
    {"attended-deviation:0.1,layer=0", "attended-deviation: layer: 0 is less than 1", nullptr},
    {"focus:0.1,stop=1.1", "focus: stop: 1.100000 is not within [0, 1]", nullptr},
    {"focus:0.1,mass=2", "focus: mass: 2.000000 is not within [0, 1]", nullptr},
    {"budget", "tolerance: is missing", kBudget},
    {"budget:-0.1", "tolerance: '-0.1' is not a decimal number", kBudget},
    {"budget:inf", "tolerance: 'inf' is not a decimal number", kBudget},
    {"budget:0.1,most=1.5", "budget: most: 1.500000 is not within [0, 1]", kBudget},
    {"budget:0.1,start=0", "budget: start: 0 would repair nothing", kBudget},
    {"budget:0.1,keys=2", "budget: keys: 2.000000 is not within [0, 1]", kBudget},
    {"budget:0.1,values=-1", "values: '-1' is not a decimal number", kBudget},
    {"budget:0.1,unit=em", "unit: 'em' is not kl or f1", kBudget},
    {"random:0.1,seed=18446744073709551616", "seed: '18446744073709551616' is not a whole number of 64 bits",
     "the form is random:FRACTION[,seed=SEED]"},
};

std::string message_of(const pikv::Result<std::unique_ptr<pikv::RepairPolicy>>& policy) {
  return policy.ok() ? "accepted: " + (*policy)->name() : std::string(policy.status().message());
}

}  // namespace

TEST_CASE("repair specs: names are specs, without what is at its default") {
  for (const GoodSpec& good : kGoodSpecs) {
    CAPTURE(good.spec);
    const auto policy = pikv::make_repair_policy(good.spec);
    if (good.name == nullptr) {
      CHECK_FALSE(policy.ok());
      continue;
    }
    REQUIRE_MESSAGE(policy.ok(), message_of(policy));
    CHECK((*policy)->name() == good.name);
    const auto again = pikv::make_repair_policy((*policy)->name());
    REQUIRE_MESSAGE(again.ok(), message_of(again));
    CHECK((*again)->name() == good.name);
  }
}

TEST_CASE("repair specs: what is malformed is refused by field, with the form that is right") {
  for (const BadSpec& bad : kBadSpecs) {
    CAPTURE(bad.spec);
    const auto policy = pikv::make_repair_policy(bad.spec);
    const std::string message = message_of(policy);
    CAPTURE(message);
    REQUIRE_FALSE(policy.ok());
    CHECK(policy.status().code() == pikv::ErrorCode::kInvalidArgument);
    const std::string begin = "make_repair_policy: '" + std::string(bad.spec) + "': ";
    if (bad.message != nullptr && bad.remedy != nullptr) {
      CHECK(message == begin + bad.message + "; " + bad.remedy);
    } else {
      CHECK(message.starts_with(begin));
      CHECK(message.find(bad.message != nullptr ? bad.message : bad.remedy) != std::string::npos);
    }
  }
}

TEST_CASE("repair specs: options in C++ are checked alike") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(message_of(pikv::make_blend_repair({.fraction = nan})) == "blend: fraction: nan is not within [0, 1]");
  CHECK(message_of(pikv::make_blend_repair({.signal = static_cast<pikv::DeviationOf>(9)})) ==
        "blend: signal: there is none of number 9");
  CHECK(message_of(pikv::make_blend_repair({.layer = -1})) == "blend: layer: -1 is less than 1");
  CHECK(message_of(pikv::make_gradual_blend_repair({.layers = {}})) == "blend-gradual: layers: there are none");
  CHECK(message_of(pikv::make_first_rows_repair({.skip = -1})) == "first: skip: -1 is less than 0");
  CHECK(message_of(pikv::make_end_rows_repair({.num_rows = 0})) == "ends: rows: 0 is less than 1");
  CHECK(message_of(pikv::make_random_rows_repair({.fraction = -0.5})) ==
        "random: fraction: -0.500000 is not within [0, 1]");
  CHECK(message_of(pikv::make_random_rows_repair({.fraction = -0.0})) == "accepted: random:0");
  CHECK(pikv::make_no_repair()->name() == "none");
  CHECK(pikv::make_full_repair()->name() == "all");
  CHECK(pikv::make_first_rows_repair({}).value()->name() == "first:16");
  CHECK(pikv::make_end_rows_repair({}).value()->name() == "ends:8");
  CHECK(pikv::make_focus_repair({}).value()->name() == "focus:0.15");
  CHECK(pikv::make_prophet_repair({}).value()->name() == "prophet:0.2");
  CHECK(pikv::make_attention_repair({}).value()->name() == "attention:0.15");
  CHECK(pikv::make_attended_deviation_repair({}).value()->name() == "attended-deviation:0.15");
}
