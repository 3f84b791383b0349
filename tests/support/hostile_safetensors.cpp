#include <cstring>

#include "support/byte_writer.hpp"
#include "support/hostile_case.hpp"
#include "support/safetensors_writer.hpp"

namespace test_support {
namespace {

struct HeaderCase {
  const char* name;
  std::string header;
  std::size_t data_bytes;
  const char* field;
  const char* marker;  ///< the offset named is where this ends in the header
  const char* reason;
};

std::vector<HeaderCase> header_cases() {
  return {
      {"empty header", "", 0, "header", "", "does not start with '{'"},
      {"header not an object", "[]", 0, "header", "", "does not start with '{'"},
      {"space before the header", " {}", 0, "header", "", "does not start with '{'"},
      {"header cut off", R"({"a":{"dtype":"F32")", 0, "a", R"("F32")", "unexpected end of input"},
      {"text behind the header", "{} {", 0, "header", "{} {", "expected end of input"},
      {"tensor is a number", R"({"a":1})", 0, "header", R"("a":1})", "a number stands"},
      {"tensor is an array", R"({"a":[]})", 0, "header", R"("a":[)", "an array stands"},
      {"tensor within a tensor", R"({"a":{"dtype":{}}})", 0, "a", R"("dtype":{)", "an object stands"},
      {"unknown member", R"({"a":{"strides":[1]}})", 0, "a", R"("strides")", "unknown member 'strides'"},
      {"dtype missing", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "a", "4]}", "dtype is missing"},
      {"shape missing", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "a", "4]}", "shape is missing"},
      {"offsets missing", R"({"a":{"dtype":"F32","shape":[1]}})", 4, "a", "[1]}", "data_offsets is missing"},
      {"one offset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "a", "[0]", "not two numbers"},
      {"three offsets", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "a", "4,8]",
       "not two numbers"},
      {"dtype not a string", R"({"a":{"dtype":1}})", 0, "a", R"("dtype":1})", "a number stands"},
      {"dtype not supported", R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4, "a", R"({"a")",
       "'F8_E4M3'"},
      {"negative axis", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "a", "[-1]", "negative"},
      {"axis of 0", R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0, "a", R"({"a")", "axis"},
      {"fractional axis", R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "a", "[1.5]", "not whole"},
      {"axis above 64 bits", R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", 4, "a",
       "[18446744073709551616]", "exceeds 64 bits"},
      {"nine axes", R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, "a",
       "[1,1,1,1,1,1,1,1,1]", "more than 8"},
      {"size wraps to 4", R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4, "a",
       R"({"a")", "overflows 63 bits"},
      {"product of axes wraps", R"({"a":{"dtype":"F16","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "a",
       R"({"a")", "overflows 63 bits"},
      {"shape larger than offsets", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "a", R"({"a")",
       "are not the 8 bytes"},
      {"offsets reversed",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})",
       4, "b", R"("b")", "are not the 4 bytes"},
      {"offset beyond the file", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "a", R"({"a")",
       "the file holds 4 bytes"},
      {"offset 2^63", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775808,9223372036854775812]}})",
       4, "a", R"({"a")", "overlap or leave a gap"},
      {"gap at the start", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "a", R"({"a")",
       "overlap or leave a gap"},
      {"gap in the middle",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "b", R"("b")", "overlap or leave a gap"},
      {"overlap",
       R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "b", R"("b")", "overlap or leave a gap"},
      {"same bytes twice",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "b", R"("b")", "overlap or leave a gap"},
      {"duplicate tensor",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "header", R"(,"a")", "duplicate key 'a'"},
      {"duplicate member", R"({"a":{"dtype":"F32","dtype":"F16"}})", 0, "a", R"(,"dtype")", "duplicate key 'dtype'"},
      {"duplicate metadata", R"({"__metadata__":{"a":"1","a":"2"}})", 0, "header", R"(,"a")", "duplicate key 'a'"},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "header", R"(,"__metadata__")",
       "duplicate key '__metadata__'"},
      {"metadata not strings", R"({"__metadata__":{"a":1}})", 0, "header", R"("a":1})", "a number stands"},
      {"metadata nested", R"({"__metadata__":{"a":{}}})", 0, "header", R"("a":{)", "an object stands"},
      {"invalid UTF-8", "{\"\xFF\":{}}", 0, "header", "\xFF", "UTF-8"},
  };
}

std::vector<std::byte> with_length(std::uint64_t length, std::string_view rest) {
  ByteWriter writer;
  writer.add(length);
  writer.add_text(rest);
  return writer.bytes();
}

}  // namespace

std::vector<HostileCase> hostile_safetensors_files() {
  std::vector<HostileCase> cases = {
      {"no bytes", {}, "header length", 0, "the file of 0 bytes"},
      {"seven bytes", std::vector<std::byte>(7), "header length", 0, "the file of 7 bytes"},
      {"header length beyond the file", with_length(3, "{}"), "header length", 0, "the file ends after 2"},
      {"header length 2^64-1", with_length(~std::uint64_t{0}, "{}"), "header length", 0, "at most 100000000"},
      {"header above 100 MB", with_length(100'000'001, "{}"), "header length", 0, "at most 100000000"},
      {"trailing bytes", write_safetensors_raw("{}", 1), "end of tensor data", 10, "1 bytes follow"},
  };
  for (const HeaderCase& item : header_cases()) {
    const std::size_t marker = item.header.find(item.marker);
    const std::uint64_t offset = 8 + marker + std::strlen(item.marker);
    cases.push_back({item.name, write_safetensors_raw(item.header, item.data_bytes), item.field, offset, item.reason});
  }
  return cases;
}

}  // namespace test_support
