#include <functional>
#include <limits>

#include "support/byte_writer.hpp"
#include "support/hostile_case.hpp"
#include "support/tiny_model.hpp"

namespace test_support {
namespace {

using Written = GgufImage::Written;
using Mutate = std::function<void(GgufImage&)>;
using Locate = std::function<std::uint64_t(const Written&)>;

struct Mutation {
  const char* name;
  Mutate mutate;
  const char* field;
  Locate offset;
  const char* reason;
};

Locate at(std::uint64_t offset) {
  return [offset](const Written&) { return offset; };
}
Locate in_value(const char* key, std::uint64_t further = 0) {
  return [=](const Written& file) { return file.value_offsets.at(key) + further; };
}
Locate in_key(const char* key) {
  return [=](const Written& file) { return file.key_offsets.at(key); };
}
Locate in_tensor(const char* name, std::uint64_t further = 0) {
  return [=](const Written& file) { return file.tensor_offsets.at(name) + further; };
}
std::uint64_t values_end(const Written& file) { return file.values_end; }
std::uint64_t tensors_end(const Written& file) { return file.tensors_end; }
std::uint64_t data_start(const Written& file) { return file.data_start; }

template <class... Numbers>
std::vector<std::byte> payload(Numbers... numbers) {
  ByteWriter writer;
  (writer.add(numbers), ...);
  return writer.bytes();
}

Mutate set_uint32(const char* key, std::uint32_t number) {
  return [=](GgufImage& image) {
    image.erase_value(key);
    image.add_uint32(key, number);
  };
}
Mutate set_float32(const char* key, float number) {
  return [=](GgufImage& image) {
    image.erase_value(key);
    image.add_float32(key, number);
  };
}
Mutate set_string(const char* key, const char* text) {
  return [=](GgufImage& image) {
    image.erase_value(key);
    image.add_string(key, text);
  };
}
Mutate set_payload(const char* key, std::uint32_t type, std::vector<std::byte> bytes) {
  return [=](GgufImage& image) { image.value(key) = {key, type, bytes, {}}; };
}
Mutate erase(const char* key) {
  return [=](GgufImage& image) { image.erase_value(key); };
}
Mutate set_strings(const char* key, std::vector<std::string> elements) {
  return [=](GgufImage& image) {
    image.erase_value(key);
    image.add_strings(key, elements);
  };
}
Mutate set_dims(const char* name, std::vector<std::uint64_t> dims) {
  return [=](GgufImage& image) { image.tensor(name).dims = dims; };
}

constexpr std::uint64_t kMax64 = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kTwoTo31 = std::uint64_t{1} << 31, kTwoTo32 = std::uint64_t{1} << 32;
constexpr std::uint64_t kTwoTo62 = std::uint64_t{1} << 62, kTwoTo63 = std::uint64_t{1} << 63;
constexpr std::uint32_t kString = GgufImage::kString, kArray = GgufImage::kArray;
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr const char* kAlignment = "general.alignment";
constexpr const char* kEmbedding = "token_embd.weight";
constexpr const char* kNorm = "output_norm.weight";
// An entry is: name length (8), name, number of dimensions (4), dimensions (8 each), type (4), offset (8).
constexpr std::uint64_t kEmbeddingDims = 8 + 17, kEmbeddingType = kEmbeddingDims + 4 + 2 * 8;
constexpr std::uint64_t kNormOffset = 8 + 18 + 4 + 8 + 4;

std::vector<Mutation> header_mutations() {
  return {
      {"wrong magic", [](GgufImage& image) { image.magic = "GGML"; }, "magic", at(0), "is not 'GGUF'"},
      {"version 1", [](GgufImage& image) { image.version = 1; }, "version", at(4), "1 is not supported"},
      {"version 4", [](GgufImage& image) { image.version = 4; }, "version", at(4), "4 is not supported"},
      {"big-endian", [](GgufImage& image) { image.version = 0x03000000; }, "version", at(4), "big-endian"},
      {"huge tensor count", [](GgufImage& image) { image.num_tensors = kMax64; }, "tensor count", at(8), "cannot fit"},
      {"tensor count wraps", [](GgufImage& image) { image.num_tensors = kTwoTo63 / 4; }, "tensor count", at(8),
       "cannot fit"},
      {"huge metadata count", [](GgufImage& image) { image.num_values = kTwoTo63; }, "metadata count", at(16),
       "cannot fit"},
      {"one tensor too many", [](GgufImage& image) { image.num_tensors = image.tensors.size() + 1; },
       "name of tensor 11", tensors_end, "at most 64"},
      {"one tensor too few",
       [](GgufImage& image) {
         image.tensors.push_back({"extra", {256}, 0, std::vector<std::byte>(1024), {}, {}});
         image.num_tensors = image.tensors.size() - 1;
       },
       "end of tensor data",
       [](const Written& file) { return (file.tensor_offsets.at("extra") + 31) / 32 * 32 + 21 * 32; }, "goes on"},
  };
}

std::vector<Mutation> value_mutations() {
  return {
      {"key length 2^63", [](GgufImage& image) { image.values.front().key_length = kTwoTo63; },
       "key of metadata entry 0", at(24), "9223372036854775808"},
      {"key length above the limit", [](GgufImage& image) { image.values.front().key_length = 65536; },
       "key of metadata entry 0", at(24), "at most 65535"},
      {"empty key", [](GgufImage& image) { image.values.front().key.clear(); }, "key of metadata entry 0", at(24),
       "is empty"},
      {"unknown value type", set_payload("general.name", 13, {}), "general.name",
       [](const Written& file) { return file.value_offsets.at("general.name") - 4; }, "unknown value type 13"},
      {"string length 2^63", set_payload("general.name", kString, payload(kTwoTo63)), "general.name",
       in_value("general.name", 8), "needs 9223372036854775808 bytes"},
      {"string length 2^64-1", set_payload("general.name", kString, payload(kMax64)), "general.name",
       in_value("general.name", 8), "needs 18446744073709551615 bytes"},
      {"array of arrays",
       set_payload("general.name", kArray, payload(kArray, std::uint64_t{1}, GgufImage::kInt32, std::uint64_t{0})),
       "general.name", in_value("general.name"), "arrays of arrays"},
      {"array count wraps", set_payload("general.name", kArray, payload(GgufImage::kInt32, kTwoTo62)), "general.name",
       in_value("general.name", 4), "cannot fit"},
      {"array of strings count above INT_MAX", set_payload(kTokens, kArray, payload(kString, kTwoTo31)), kTokens,
       in_value(kTokens, 4), "cannot fit"},
      {"array count 2^63", set_payload(kTypes, kArray, payload(GgufImage::kInt32, kTwoTo63)), kTypes,
       in_value(kTypes, 4), "cannot fit"},
      {"unknown element type", set_payload("general.name", kArray, payload(std::uint32_t{99}, std::uint64_t{0})),
       "general.name", in_value("general.name"), "unknown value type 99"},
      {"boolean of 2", set_payload("tokenizer.ggml.add_bos_token", GgufImage::kBool, payload(std::uint8_t{2})),
       "tokenizer.ggml.add_bos_token", in_value("tokenizer.ggml.add_bos_token"), "neither 0 nor 1"},
      {"duplicate key",
       [](GgufImage& image) { image.values.insert(image.values.begin(), image.value("llama.block_count")); },
       "llama.block_count", in_key("llama.block_count"), "duplicate key"},
      {"alignment 0", set_uint32(kAlignment, 0), kAlignment, in_value(kAlignment), "0 is not a power of two"},
      {"alignment 3", set_uint32(kAlignment, 3), kAlignment, in_value(kAlignment), "3 is not a power of two"},
      {"alignment 2^31", set_uint32(kAlignment, 1U << 31), kAlignment, in_value(kAlignment), "2147483648"},
      {"alignment as a string", set_string(kAlignment, "32"), kAlignment, in_value(kAlignment), "not a 32-bit"},
  };
}

std::vector<Mutation> tensor_mutations() {
  return {
      {"no dimensions", set_dims(kEmbedding, {}), kEmbedding, in_tensor(kEmbedding, kEmbeddingDims), "0 dimensions"},
      {"five dimensions", set_dims(kEmbedding, {4, 8, 1, 1, 1}), kEmbedding, in_tensor(kEmbedding, kEmbeddingDims),
       "5 dimensions"},
      {"dimension of 0", set_dims(kEmbedding, {4, 0}), kEmbedding, in_tensor(kEmbedding, kEmbeddingDims + 12),
       "dimension is 0"},
      {"negative dimension", set_dims(kEmbedding, {4, kMax64}), kEmbedding, in_tensor(kEmbedding, kEmbeddingDims + 12),
       "overflows 63 bits"},
      {"product of dimensions wraps to 0", set_dims(kEmbedding, {kTwoTo32, kTwoTo32}), kEmbedding,
       in_tensor(kEmbedding, kEmbeddingDims + 12), "overflows 63 bits"},
      {"product of dimensions is 2^63", set_dims(kEmbedding, {kTwoTo31, kTwoTo32}), kEmbedding,
       in_tensor(kEmbedding, kEmbeddingDims + 12), "overflows 63 bits"},
      {"size in bytes wraps", set_dims(kEmbedding, {kTwoTo62}), kEmbedding, in_tensor(kEmbedding), "overflows 64 bits"},
      {"sum of sizes wraps",
       [](GgufImage& image) {
         image.tensor(kEmbedding).dims = {kTwoTo62 - 16};
         image.tensor(kNorm).dims = {64};
         image.tensor(kNorm).offset = kMax64 - 63;
       },
       kNorm, in_tensor(kNorm), "overflow 64 bits"},
      {"padding wraps", set_dims(kEmbedding, {kTwoTo62 - 1}), kEmbedding, in_tensor(kEmbedding), "overflow 64 bits"},
      {"dimensions larger than the file", set_dims("blk.0.ffn_down.weight", {4, 1 << 20}), "blk.0.ffn_down.weight",
       data_start, "past the end of the file"},
      {"duplicate tensor", [](GgufImage& image) { image.tensors.push_back(image.tensor(kEmbedding)); }, kEmbedding,
       in_tensor(kEmbedding), "duplicate tensor"},
      {"empty tensor name", [](GgufImage& image) { image.tensors.front().name.clear(); }, "name of tensor 0",
       values_end, "is empty"},
      {"tensor name length 2^63", [](GgufImage& image) { image.tensors.front().name_length = kTwoTo63; },
       "name of tensor 0", values_end, "at most 64"},
      {"type not decoded", [](GgufImage& image) { image.tensor(kEmbedding).type = 10; }, kEmbedding,
       in_tensor(kEmbedding, kEmbeddingType), "Q2_K (number 10)"},
      {"type withdrawn", [](GgufImage& image) { image.tensor(kEmbedding).type = 4; }, kEmbedding,
       in_tensor(kEmbedding, kEmbeddingType), "unknown (number 4)"},
      {"type unknown", [](GgufImage& image) { image.tensor(kEmbedding).type = 0xFFFFFFFF; }, kEmbedding,
       in_tensor(kEmbedding, kEmbeddingType), "unknown (number 4294967295)"},
      {"rows are not whole blocks", [](GgufImage& image) { image.tensor(kEmbedding).type = 8; }, kEmbedding,
       in_tensor(kEmbedding), "no multiple of the 32"},
      {"tensors overlap", [](GgufImage& image) { image.tensor(kNorm).offset = 0; }, kNorm,
       in_tensor(kNorm, kNormOffset), "overlap or leave a gap"},
      {"gap between tensors", [](GgufImage& image) { image.tensor(kNorm).offset = 4096; }, kNorm,
       in_tensor(kNorm, kNormOffset), "overlap or leave a gap"},
      {"offset not aligned", [](GgufImage& image) { image.tensor(kNorm).offset = 129; }, kNorm,
       in_tensor(kNorm, kNormOffset), "overlap or leave a gap"},
      {"offset 2^63", [](GgufImage& image) { image.tensor(kNorm).offset = kTwoTo63; }, kNorm,
       in_tensor(kNorm, kNormOffset), "overlap or leave a gap"},
      {"tensor missing", [](GgufImage& image) { image.erase_tensor(kNorm); }, kNorm, tensors_end, "missing"},
      {"tensor unknown",
       [](GgufImage& image) {
         image.tensors.insert(image.tensors.begin(), {"blk.0.attn_q.bias", {4}, 0, std::vector<std::byte>(16), {}, {}});
       },
       "blk.0.attn_q.bias", data_start, "has no use for"},
      {"tensor of another shape", set_dims(kEmbedding, {8, 4}), kEmbedding, data_start, "shape [4, 8]"},
      {"tensor of another rank", set_dims(kEmbedding, {4, 4, 2}), kEmbedding, data_start, "shape [2, 4, 4]"},
      {"frequency divisor of 0",
       [](GgufImage& image) {
         image.tensors.insert(image.tensors.begin(), {"rope_freqs.weight", {2}, 0, payload(1.0F, 0.0F), {}, {}});
       },
       "rope_freqs.weight", data_start, "not a positive finite number"},
      {"too many frequency divisors",
       [](GgufImage& image) {
         image.tensors.insert(image.tensors.begin(), {"rope_freqs.weight", {4}, 0, std::vector<std::byte>(16), {}, {}});
       },
       "rope_freqs.weight", data_start, "shape [4]"},
  };
}

std::vector<Mutation> model_mutations() {
  constexpr const char* kArchitecture = "general.architecture";
  constexpr const char* kLayers = "llama.block_count";
  constexpr const char* kHeads = "llama.attention.head_count";
  constexpr const char* kEpsilon = "llama.attention.layer_norm_rms_epsilon";
  return {
      {"another architecture", set_string(kArchitecture, "qwen2"), kArchitecture, in_value(kArchitecture), "'qwen2'"},
      {"no architecture", erase(kArchitecture), kArchitecture, values_end, "is missing"},
      {"no layer count", erase(kLayers), kLayers, values_end, "is missing"},
      {"0 layers", set_uint32(kLayers, 0), kLayers, in_value(kLayers), "not within 1"},
      {"2^31 layers", set_uint32(kLayers, 1U << 31), kLayers, in_value(kLayers), "not within 1"},
      {"more layers than tensors", set_uint32(kLayers, 1000000), "blk.1.attn_norm.weight", tensors_end, "missing"},
      {"layers as a string", set_string(kLayers, "1"), kLayers, in_value(kLayers), "not a whole number"},
      {"negative layers", set_payload(kLayers, GgufImage::kInt32, payload(std::int32_t{-1})), kLayers,
       in_value(kLayers), "not a whole number"},
      {"heads that do not divide",
       [](GgufImage& image) {
         set_uint32(kHeads, 3)(image);
         image.erase_value("llama.attention.key_length");
       },
       kHeads, in_value(kHeads), "does not divide"},
      {"epsilon of 0", set_float32(kEpsilon, 0.0F), kEpsilon, in_value(kEpsilon), "positive finite"},
      {"epsilon not a number", set_float32(kEpsilon, std::numeric_limits<float>::quiet_NaN()), kEpsilon,
       in_value(kEpsilon), "positive finite"},
      {"infinite rope base", set_float32("llama.rope.freq_base", std::numeric_limits<float>::infinity()),
       "llama.rope.freq_base", in_value("llama.rope.freq_base"), "positive finite"},
      {"rope over a part of the head", set_uint32("llama.rope.dimension_count", 2), "llama.rope.dimension_count",
       in_value("llama.rope.dimension_count"), "head size of 4"},
      {"yarn", set_string("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.type",
       in_value("llama.rope.scaling.type"), "'yarn'"},
      {"experts", set_uint32("llama.expert_count", 8), "llama.expert_count", in_value("llama.expert_count"), "experts"},
      {"unknown model key", set_float32("llama.logit_scale", 2.0F), "llama.logit_scale", in_value("llama.logit_scale"),
       "not supported"},
      {"split model", set_uint32("split.count", 2), "split.count", in_value("split.count"), "split over"},
      {"vocabulary smaller than the tokens", set_uint32("llama.vocab_size", 7), "token_embd.weight", data_start,
       "shape [8, 4]"},
  };
}

std::vector<Mutation> tokenizer_mutations() {
  constexpr const char* kModel = "tokenizer.ggml.model";
  constexpr const char* kPre = "tokenizer.ggml.pre";
  constexpr const char* kEos = "tokenizer.ggml.eos_token_id";
  constexpr const char* kBos = "tokenizer.ggml.bos_token_id";
  // Offsets into an array: element type (4), count (8), then its elements.
  return {
      {"another tokenizer", set_string(kModel, "llama"), kModel, in_value(kModel), "'llama'"},
      {"no pre-split", erase(kPre), kPre, values_end, "is missing"},
      {"another pre-split", set_string(kPre, "qwen2"), kPre, in_value(kPre), "'qwen2'"},
      {"no tokens", set_strings(kTokens, {}), kTokens, in_value(kTokens), "0 tokens"},
      {"tokens that are no strings", set_payload(kTokens, kArray, payload(GgufImage::kInt32, std::uint64_t{0})),
       kTokens, in_value(kTokens), "not an array of strings"},
      {"empty token", set_strings(kTokens, {"a", "", "c", "d", "e", "f", "g", "h"}), "tokenizer.ggml.tokens[1]",
       in_value(kTokens, 12 + 9 + 8), "is empty"},
      {"token length past the file", set_payload(kTokens, kArray, payload(kString, std::uint64_t{1}, kTwoTo62)),
       kTokens, in_value(kTokens, 20), "needs 4611686018427387904 bytes"},
      {"malformed byte token",
       [](GgufImage& image) {
         set_strings(kTokens, {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<0x-1>", "b", "c", "ab", "abc"})(image);
         image.erase_value(kTypes);
         image.add_int32s(kTypes, {3, 3, 3, 6, 1, 1, 1, 1});
       },
       "tokenizer.ggml.token_type[3]", in_value(kTypes, 12 + 3 * 4), "byte tokens"},
      {"too few token types",
       [](GgufImage& image) {
         image.erase_value(kTypes);
         image.add_int32s(kTypes, {3, 3, 3});
       },
       kTypes, in_value(kTypes), "3 types for 8 tokens"},
      {"token type 0",
       [](GgufImage& image) {
         image.erase_value(kTypes);
         image.add_int32s(kTypes, {0, 3, 3, 1, 1, 1, 1, 1});
       },
       "tokenizer.ggml.token_type[0]", in_value(kTypes, 12), "unknown token type 0"},
      {"merge without a space", set_strings(kMerges, {"ab"}), "tokenizer.ggml.merges[0]", in_value(kMerges, 20),
       "one space"},
      {"merge of three", set_strings(kMerges, {"a b", "a b c"}), "tokenizer.ggml.merges[1]",
       in_value(kMerges, 12 + 11 + 8), "one space"},
      {"merge of nothing", set_strings(kMerges, {" b"}), "tokenizer.ggml.merges[0]", in_value(kMerges, 20),
       "one space"},
      {"merges missing", erase(kMerges), kMerges, values_end, "is missing"},
      {"end-of-sequence id outside the vocabulary", set_uint32(kEos, 8), kEos, in_value(kEos), "id 8 is outside"},
      {"begin-of-sequence id -1", set_payload(kBos, GgufImage::kInt32, payload(std::int32_t{-1})), kBos, in_value(kBos),
       "not a whole number"},
      {"begin-of-sequence id outside the vocabulary", set_uint32(kBos, 0xFFFFFFFF), kBos, in_value(kBos), "is outside"},
      {"chat template that is no string", set_uint32("tokenizer.chat_template", 1), "tokenizer.chat_template",
       in_value("tokenizer.chat_template"), "not a string"},
  };
}

}  // namespace

std::vector<HostileCase> hostile_gguf_files() {
  std::vector<HostileCase> cases;
  for (const auto& mutations :
       {header_mutations(), value_mutations(), tensor_mutations(), model_mutations(), tokenizer_mutations()}) {
    for (const Mutation& mutation : mutations) {
      GgufImage image = to_gguf(minimal_model());
      mutation.mutate(image);
      const Written file = image.write();
      cases.push_back({mutation.name, file.bytes, mutation.field, mutation.offset(file), mutation.reason});
    }
  }
  return cases;
}

}  // namespace test_support
