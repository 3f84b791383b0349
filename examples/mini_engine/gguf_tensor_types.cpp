#include "mini_engine/gguf_tensor_types.hpp"

namespace mini_engine {
namespace {

struct SupportedType {
  std::uint32_t number;
  Encoding encoding;
};
constexpr SupportedType kSupported[] = {
    {0, Encoding::kF32},  {1, Encoding::kF16},  {2, Encoding::kQ4_0},  {3, Encoding::kQ4_1},  {6, Encoding::kQ5_0},
    {7, Encoding::kQ5_1}, {8, Encoding::kQ8_0}, {12, Encoding::kQ4_K}, {14, Encoding::kQ6_K}, {30, Encoding::kBF16},
};

// By number; empty where a number has been withdrawn.
constexpr std::string_view kNames[] = {
    "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
    "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
    "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4",
};

}  // namespace

std::optional<Encoding> encoding_of_gguf_type(std::uint32_t type) {
  for (const SupportedType& supported : kSupported) {
    if (supported.number == type) return supported.encoding;
  }
  return std::nullopt;
}

std::uint32_t gguf_type_of(Encoding encoding) {
  for (const SupportedType& supported : kSupported) {
    if (supported.encoding == encoding) return supported.number;
  }
  __builtin_unreachable();
}

std::string_view gguf_type_name(std::uint32_t type) {
  return type < std::size(kNames) && !kNames[type].empty() ? kNames[type] : "unknown";
}

}  // namespace mini_engine
