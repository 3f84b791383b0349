#include <string>

#include "repair/policies.hpp"

namespace pikv {
inline namespace v0 {
namespace {

struct NamedPolicy {
  std::string_view name;
  const char* form;
  detail::PolicyResult (*from)(detail::PolicySpec& spec);
};

constexpr NamedPolicy kPolicies[] = {
    {"none", "none", detail::no_repair_from},
    {"all", "all", detail::full_repair_from},
    {"first", "first:ROWS[,skip=CHUNKS]", detail::first_rows_from},
    {"ends", "ends:ROWS", detail::end_rows_from},
    {"blend", "blend:FRACTION[,layer=LAYER][,signal=v|k|kv]", detail::blend_from},
    {"blend-gradual", "blend-gradual:FRACTION[,layers=A+B+...][,signal=v|k|kv]", detail::gradual_blend_from},
    {"attention", "attention:FRACTION", detail::attention_from},
    {"prophet", "prophet:FRACTION", detail::prophet_from},
    {"attended-deviation", "attended-deviation:FRACTION[,layer=LAYER][,signal=v|k|kv]",
     detail::attended_deviation_from},
    {"focus", "focus:FRACTION[,stop=DEPTH][,mass=SHARE]", detail::focus_from},
    {"budget", "budget:TOLERANCE[,unit=kl|f1][,most=FRACTION][,start=FRACTION][,keys=GAIN][,values=GAIN]",
     detail::error_budget_from},
    {"random", "random:FRACTION[,seed=SEED]", detail::random_rows_from},
};

Status refused(std::string_view spec, std::string_view what, const std::string& remedy) {
  return invalid_argument("make_repair_policy: '" + std::string(spec) + "': " + std::string(what) + "; " + remedy);
}

}  // namespace

Result<std::unique_ptr<RepairPolicy>> make_repair_policy(std::string_view spec) {
  const std::string_view name = spec.substr(0, spec.find(':'));
  std::string names;
  for (const NamedPolicy& known : kPolicies) {
    if (known.name == name) {
      const std::string remedy = std::string("the form is ") + known.form;
      Result<detail::PolicySpec> parts = detail::PolicySpec::split(spec);
      if (!parts.ok()) return refused(spec, parts.status().message(), remedy);
      Result<std::unique_ptr<RepairPolicy>> policy = known.from(*parts);
      if (!policy.ok()) return refused(spec, policy.status().message(), remedy);
      return policy;
    }
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  if (name == "cache-craft") {
    return refused(spec, "needs statistics of chunks, which a spec cannot bring", "use make_cache_craft_policy()");
  }
  return refused(spec, "there is no policy '" + std::string(name) + "'", "there are " + names);
}

}  // namespace v0
}  // namespace pikv
