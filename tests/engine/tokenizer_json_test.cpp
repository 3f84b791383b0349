#include "mini_engine/tokenizer_json.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "engine/tokenizer_golden.hpp"
#include "mini_engine/error.hpp"
#include "support/temp_directory.hpp"

using namespace mini_engine;
using namespace mini_engine::testing;
using nlohmann::json;

namespace {

json small_json(const std::string& name) { return json::parse(read_text(golden_path("tokenizer_" + name + ".json"))); }

/// What reading and then indexing the text says against it.
std::string error_of_text(const std::string& text) {
  try {
    const Tokenizer tokenizer(parse_tokenizer_json(text, "t.json"));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// The same for a sound file after `change`.
std::string error_after(const std::string& name, const std::function<void(json&)>& change) {
  json content = small_json(name);
  change(content);
  return error_of_text(content.dump());
}

std::string llama3_after(const std::function<void(json&)>& change) { return error_after("llama3_small", change); }
std::string smol_after(const std::function<void(json&)>& change) { return error_after("smol_small", change); }

std::string config_error(const json& config) {
  TokenizerData data = read_tokenizer_json(golden_path("tokenizer_llama3_small.json"));
  try {
    parse_tokenizer_config(config.dump(), "c.json", data);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("both kinds of tokenizer.json are understood") {
  const TokenizerData llama3 = read_tokenizer_json(golden_path("tokenizer_llama3_small.json"));
  CHECK(llama3.pre_split == PreSplit::kLlama3);
  CHECK(llama3.ignore_merges);
  CHECK(llama3.adds_bos);
  CHECK(llama3.pieces[llama3.bos_id] == "<|begin_of_text|>");
  CHECK(std::count(llama3.is_special.begin(), llama3.is_special.end(), true) == 7);

  const TokenizerData smol = read_tokenizer_json(golden_path("tokenizer_smol_small.json"));
  CHECK(smol.pre_split == PreSplit::kSmolLm);
  CHECK_FALSE(smol.ignore_merges);
  CHECK_FALSE(smol.adds_bos);
  CHECK(smol.chat_template == ChatTemplate::kNone);
}

TEST_CASE("merges may be strings, and special tokens may stand in the vocabulary") {
  json content = small_json("smol_small");
  const std::vector<TokenId> expected =
      small_tokenizer("smol_small").encode("the other king, 12<|im_end|>", SpecialTokens::kParse);
  for (json& merge : content["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  for (const json& token : content["added_tokens"])
    content["model"]["vocab"][token["content"].get<std::string>()] = token["id"];
  const Tokenizer tokenizer(parse_tokenizer_json(content.dump(), "t.json"));
  CHECK(tokenizer.encode("the other king, 12<|im_end|>", SpecialTokens::kParse) == expected);
}

TEST_CASE("files that are no sound JSON are refused with the place") {
  const std::string text = small_json("smol_small").dump();
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, text.size() / 3, text.size() / 2, text.size() - 1}) {
    CAPTURE(size);
    CHECK(error_of_text(text.substr(0, size)).find("t.json: JSON at byte ") == 0);
  }
  CHECK(error_of_text("[]") == "t.json: JSON: is not an object");
  CHECK(error_of_text("{\"decoder\":" + std::string(100'000, '[')).find("nested deeper than 64") != std::string::npos);
  CHECK(error_of_text(R"({"model":1,"model":2})").find("t.json: model at byte ") == 0);
}

TEST_CASE("vocabularies that are no numbering of pieces are refused") {
  CHECK(smol_after([](json& j) {
          j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"];
        }).find("t.json: model.vocab['b']: ") == 0);
  CHECK(smol_after([](json& j) { j["model"]["vocab"].erase("a"); }) ==
        "t.json: added_tokens[2].id: 502 is not below 502");
  CHECK(smol_after([](json& j) { j["model"]["vocab"]["a"] = 18446744073709551615U; }) ==
        "t.json: model.vocab['a']: 18446744073709551615 is not below the number of pieces, 503");
  for (const json& wrong : {json(-1), json(1.5), json("1"), json(nullptr), json::array()}) {
    CHECK(smol_after([&](json& j) { j["model"]["vocab"]["a"] = wrong; }) ==
          "t.json: model.vocab['a']: is not a whole number from 0 up");
  }
  CHECK(smol_after([](json& j) {
          j["model"]["vocab"][""] = j["model"]["vocab"]["a"];
          j["model"]["vocab"].erase("a");
        }) == "t.json: model.vocab['']: an empty piece");
  CHECK(smol_after([](json& j) {
          j["model"]["vocab"]["not bytes"] = j["model"]["vocab"]["9"];
          j["model"]["vocab"].erase("9");
        }).find("'not bytes' holds a character outside the byte-level alphabet") != std::string::npos);
  CHECK(smol_after([](json& j) { j["model"]["vocab"] = json::array(); }) == "t.json: model.vocab: is not an object");
  CHECK(smol_after([](json& j) { j["model"].erase("vocab"); }) == "t.json: model.vocab: is missing");
}

TEST_CASE("added tokens that contradict the vocabulary, or are of kinds not supported, are refused") {
  const auto after = [](const std::function<void(json&)>& change) {
    return smol_after([&](json& j) { change(j["added_tokens"][1]); });
  };
  CHECK(after([](json& t) { t["id"] = 500; }) == "t.json: added_tokens[1].id: 500 was added before");
  CHECK(after([](json& t) { t["id"] = 5; }) == "t.json: added_tokens[1].id: 5 is the id of '&' in model.vocab");
  CHECK(smol_after([](json& j) {
          j["model"]["vocab"]["<|im_start|>"] = 0;
        }).find("t.json: model.vocab['<|im_start|>']: 0 is the id of '!' already") == 0);
  CHECK(after([](json& t) { t["content"] = "a"; }).find(" is not the id of 'a' in model.vocab") != std::string::npos);
  CHECK(after([](json& t) { t["id"] = 4'000'000'000; }) == "t.json: added_tokens[1].id: 4000000000 is not below 503");
  CHECK(after([](json& t) { t["id"] = -1; }) == "t.json: added_tokens[1].id: is not a whole number from 0 up");
  CHECK(after([](json& t) { t["content"] = "<|im_end|>"; }).find("t.json: token 502: '<|im_end|>' appears twice") == 0);
  CHECK(after([](json& t) { t["content"] = ""; }) == "t.json: added_tokens[1].content: is empty");
  CHECK(after([](json& t) { t["content"] = 3; }) == "t.json: added_tokens[1].content: is not a string");
  CHECK(after([](json& t) { t["special"] = false; }) ==
        "t.json: added_tokens[1].special: only special tokens can be added");
  CHECK(after([](json& t) { t["special"] = 1; }) == "t.json: added_tokens[1].special: is neither true nor false");
  CHECK(after([](json& t) { t["lstrip"] = true; }) == "t.json: added_tokens[1].lstrip: true is not supported");
  CHECK(smol_after([](json& j) { j["added_tokens"] = 3; }) == "t.json: added_tokens: is not an array");
}

TEST_CASE("merges that join nothing are refused") {
  const auto after = [](const json& merge) { return smol_after([&](json& j) { j["model"]["merges"][2] = merge; }); };
  const std::string misshapen = "t.json: model.merges[2]: is neither \"left right\" nor [\"left\", \"right\"]";
  for (const json& wrong :
       {json("ab"), json("a b c"), json(3), json::array({"a"}), json::array({"a", 1}), json(nullptr)}) {
    CHECK(after(wrong) == misshapen);
  }
  CHECK(after("zq xj") == "t.json: merge 2: 'zq' is not an ordinary piece of the vocabulary");
  CHECK(after(" a") == "t.json: merge 2: '' is not an ordinary piece of the vocabulary");
  CHECK(after(json::array({"<|im_end|>", "a"})) ==
        "t.json: merge 2: '<|im_end|>' is not an ordinary piece of the vocabulary");
  CHECK(smol_after([](json& j) { j["model"]["merges"][2] = j["model"]["merges"][1]; }).find("t.json: merge 2: ") == 0);
  CHECK(smol_after([](json& j) { j["model"]["merges"] = json::object(); }) == "t.json: model.merges: is not an array");
}

TEST_CASE("models and pipelines of other kinds are refused by name") {
  CHECK(smol_after([](json& j) { j["model"]["type"] = "Unigram"; }) == "t.json: model.type: only \"BPE\" is supported");
  CHECK(smol_after([](json& j) { j["model"]["dropout"] = 0.1; }) == "t.json: model.dropout: is not supported");
  CHECK(smol_after([](json& j) { j["model"]["byte_fallback"] = true; }) ==
        "t.json: model.byte_fallback: true is not supported");
  CHECK(smol_after([](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }) ==
        "t.json: model.end_of_word_suffix: is not supported");
  CHECK(smol_after([](json& j) { j["normalizer"] = {{"type", "NFC"}}; }) == "t.json: normalizer: is not supported");
  CHECK(smol_after([](json& j) {
          j["decoder"] = {{"type", "Metaspace"}};
        }) == "t.json: decoder.type: only \"ByteLevel\" is supported");
  CHECK(smol_after([](json& j) { j.erase("pre_tokenizer"); }) == "t.json: pre_tokenizer: is missing");
  CHECK(smol_after([](json& j) {
          j["pre_tokenizer"] = {{"type", "Whitespace"}};
        }).find("t.json: pre_tokenizer: is neither ") == 0);
  CHECK(smol_after([](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false; }) ==
        "t.json: pre_tokenizer.pretokenizers[0].individual_digits: false is not supported");
  CHECK(smol_after([](json& j) { j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }) ==
        "t.json: pre_tokenizer.pretokenizers[1].add_prefix_space: true is not supported");
  CHECK(llama3_after([](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\s+"; }) ==
        "t.json: pre_tokenizer.pretokenizers[0].pattern.Regex: is not the pattern of Llama 3");
  CHECK(llama3_after([](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }) ==
        "t.json: pre_tokenizer.pretokenizers[0].behavior: is not \"Isolated\"");
  CHECK(llama3_after([](json& j) { j["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; }) ==
        "t.json: pre_tokenizer.pretokenizers[1].use_regex: true is not supported");
}

TEST_CASE("post-processors other than one special token before the text are refused") {
  const std::string at = "t.json: post_processor.processors[1]";
  const auto after = [](const std::function<void(json&)>& change) {
    return llama3_after([&](json& j) { change(j["post_processor"]["processors"][1]); });
  };
  CHECK(after([](json& p) { p["type"] = "BertProcessing"; }).find(at + ".type: only ") == 0);
  CHECK(after([](json& p) { p["single"].push_back(p["single"][0]); }) ==
        at + ".single: is not the text alone, or with one special token before it");
  CHECK(after([](json& p) {
          p["special_tokens"]["<|begin_of_text|>"]["ids"] = {1, 2};
        }) == at + ".special_tokens.<|begin_of_text|>.ids: is not one id");
  CHECK(after([](json& p) { p["special_tokens"]["<|begin_of_text|>"]["ids"] = {5}; }) ==
        at + ".special_tokens.<|begin_of_text|>.ids[0]: 5 is not the id of a special token");
  CHECK(after([](json& p) { p["special_tokens"] = json::object(); }) ==
        at + ".special_tokens.<|begin_of_text|>: is missing");
  CHECK(llama3_after([](json& j) {
          json& processors = j["post_processor"]["processors"];
          processors.push_back(processors[1]);
        }) == "t.json: post_processor.processors[2].single: adds a second special token");
}

TEST_CASE("tokenizer_config.json and chat_template.jinja beside the file are read") {
  const test_support::TempDirectory folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder.path() / name, std::ios::binary) << text;
  };
  const std::string path = (folder.path() / "tokenizer.json").string();
  write("tokenizer.json", small_json("smol_small").dump());
  write("tokenizer_config.json",
        R"({"bos_token":{"content":"<|im_start|>"},"chat_template":"{{'<|im_start|>'+m.role}}"})");
  const TokenizerData data = read_tokenizer_json(path);
  CHECK(data.pieces[data.bos_id] == "<|im_start|>");
  CHECK_FALSE(data.adds_bos);
  CHECK(data.chat_template == ChatTemplate::kChatMlPlain);

  write("chat_template.jinja", "{{ '<|start_header_id|>' }}");
  CHECK(read_tokenizer_json(path).chat_template == ChatTemplate::kLlama3);

  write("tokenizer_config.json", "{");
  CHECK_THROWS_WITH_AS((void)read_tokenizer_json(path), doctest::Contains("tokenizer_config.json: JSON at byte"),
                       Error);
  CHECK_THROWS_WITH_AS((void)read_tokenizer_json((folder.path() / "none.json").string()),
                       doctest::Contains("none.json"), Error);
}

TEST_CASE("a tokenizer_config.json that contradicts tokenizer.json is refused") {
  CHECK(config_error({{"bos_token", "<|begin_of_text|>"}}) == "no error");
  CHECK(config_error({{"bos_token", nullptr}, {"chat_template", nullptr}}) == "no error");
  CHECK(config_error({{"chat_template", {{{"name", "default"}, {"template", "<|start_header_id|>"}}}}}) == "no error");
  CHECK(config_error({{"bos_token", "<s>"}}).find("c.json: bos_token: '<s>' is not a special token of ") == 0);
  CHECK(config_error({{"bos_token", "<|eot_id|>"}}).find("c.json: bos_token: '<|eot_id|>' is not the token that ") ==
        0);
  CHECK(config_error({{"bos_token", 3}}) == "c.json: bos_token: is not an object");
  CHECK(config_error({{"chat_template", 3}}) == "c.json: chat_template: is not a string");
  CHECK(config_error({{"chat_template", {3}}}) == "c.json: chat_template[0]: is not an object");
  CHECK(config_error(json::array()) == "c.json: JSON: is not an object");
}
