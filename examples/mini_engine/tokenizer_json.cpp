#include "mini_engine/tokenizer_json.hpp"

#include <algorithm>
#include <filesystem>

#include "mini_engine/error.hpp"
#include "mini_engine/json_document.hpp"
#include "mini_engine/json_fields.hpp"
#include "mini_engine/mapped_file.hpp"

namespace mini_engine {
namespace {

// How the files of Llama 3 spell the pattern that PreSplit::kLlama3 stands for.
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Throws Error unless the boolean member has the value that this engine implements.
void require(const JsonField& field, std::string_view name, bool value, bool fallback) {
  if (field.boolean(name, fallback) != value) {
    field.fail("." + std::string(name), std::string(value ? "false" : "true") + " is not supported");
  }
}

bool is_type(const JsonField& field, std::string_view type) { return field["type"].string() == type; }

PreSplit read_pre_split(const JsonField& field) {
  if (is_type(field, "Sequence")) {
    const std::vector<JsonField> steps = field["pretokenizers"].elements();
    if (steps.size() == 2 && is_type(steps[1], "ByteLevel")) {
      const JsonField& cut = steps[0];
      const JsonField& byte_level = steps[1];
      require(byte_level, "add_prefix_space", false, true);
      if (is_type(cut, "Digits")) {
        require(cut, "individual_digits", true, false);
        require(byte_level, "use_regex", true, true);
        return PreSplit::kSmolLm;
      }
      if (is_type(cut, "Split")) {
        const JsonField regex = cut["pattern"]["Regex"];
        if (regex.string() != kLlama3Regex) regex.fail("is not the pattern of Llama 3");
        const JsonField behavior = cut["behavior"];
        if (behavior.string() != "Isolated") behavior.fail("is not \"Isolated\"");
        require(cut, "invert", false, false);
        require(byte_level, "use_regex", false, true);
        return PreSplit::kLlama3;
      }
    }
  }
  field.fail("is neither [Digits, ByteLevel] as in SmolLM2 nor [Split, ByteLevel] as in Llama 3");
}

/// What changes the text before or after byte-level BPE must be absent.
void check_surroundings(const JsonField& root) {
  if (const auto normalizer = root.find("normalizer")) normalizer->fail("is not supported");
  if (const auto decoder = root.find("decoder"); decoder && !is_type(*decoder, "ByteLevel")) {
    decoder->fail(".type", "only \"ByteLevel\" is supported");
  }
}

void check_model(const JsonField& model) {
  if (!is_type(model, "BPE")) model.fail(".type", "only \"BPE\" is supported");
  require(model, "byte_fallback", false, false);
  for (const std::string_view name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = model.find(name); affix && !affix->string().empty()) affix->fail("is not supported");
  }
  if (const auto dropout = model.find("dropout")) dropout->fail("is not supported");
  // `unk_token` is not read: it stands for bytes without a token, which encode() leaves out. To put in a special token
  // instead would let plain text bring one into the prompt.
}

/// The pieces of model.vocab and added_tokens by id. There are as many ids as pieces, so that ids which are in range
/// and differ leave no hole, and no id from the file can ask for more memory than the file itself takes.
void read_pieces(const JsonField& root, TokenizerData& data) {
  const JsonField vocab_field = root["model"]["vocab"];
  const nlohmann::json& vocab = vocab_field.object();
  std::vector<JsonField> added;
  if (const auto field = root.find("added_tokens")) added = field->elements();

  std::size_t num_pieces = vocab.size();
  for (const JsonField& token : added) num_pieces += vocab.contains(token["content"].string()) ? 0 : 1;
  data.pieces.resize(num_pieces);
  data.is_special.resize(num_pieces);

  for (const auto& [piece, value] : vocab.items()) {
    const auto fail = [&field = vocab_field, &name = piece](std::string_view what) {
      field.fail("[" + in_quotes(name) + "]", what);
    };
    if (piece.empty()) fail("an empty piece");
    if (!value.is_number_unsigned()) fail("is not a whole number from 0 up");
    const auto id = value.get<std::uint64_t>();
    if (id >= num_pieces) {
      fail(std::to_string(id) + " is not below the number of pieces, " + std::to_string(num_pieces));
    }
    if (!data.pieces[id].empty()) fail(std::to_string(id) + " is the id of " + in_quotes(data.pieces[id]) + " already");
    data.pieces[id] = piece;
  }
  for (const JsonField& token : added) {
    const JsonField content = token["content"];
    if (content.string().empty()) content.fail("is empty");
    const JsonField id_field = token["id"];
    const TokenId id = id_field.index_below(num_pieces);
    if (!token["special"].boolean()) token.fail(".special", "only special tokens can be added");
    for (const std::string_view name : {"single_word", "lstrip", "rstrip"}) require(token, name, false, false);
    if (data.is_special[id]) id_field.fail(std::to_string(id) + " was added before");
    const auto in_vocab = vocab.find(content.string());
    if (in_vocab != vocab.end() && *in_vocab != id) {
      id_field.fail(std::to_string(id) + " is not the id of " + in_quotes(content.string()) + " in model.vocab");
    }
    if (in_vocab == vocab.end() && !data.pieces[id].empty()) {
      id_field.fail(std::to_string(id) + " is the id of " + in_quotes(data.pieces[id]) + " in model.vocab");
    }
    data.pieces[id] = content.string();
    data.is_special[id] = true;
  }
}

void read_merges(const JsonField& merges, TokenizerData& data) {
  const nlohmann::json& entries = merges.array();
  data.merges.reserve(entries.size());
  for (const nlohmann::json& entry : entries) {
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        data.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      data.merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
      continue;
    }
    merges.fail("[" + std::to_string(data.merges.size()) + "]", "is neither \"left right\" nor [\"left\", \"right\"]");
  }
}

void read_template(const JsonField& processor, TokenizerData& data) {
  const JsonField single = processor["single"];
  const std::vector<JsonField> parts = single.elements();
  const bool is_understood = (parts.size() == 1 && parts[0].find("Sequence")) ||
                             (parts.size() == 2 && parts[0].find("SpecialToken") && parts[1].find("Sequence"));
  if (!is_understood) single.fail("is not the text alone, or with one special token before it");
  if (parts.size() == 1) return;
  const JsonField name = parts[0]["SpecialToken"]["id"];
  const JsonField ids = processor["special_tokens"][name.string()]["ids"];
  const std::vector<JsonField> elements = ids.elements();
  if (elements.size() != 1) ids.fail("is not one id");
  const TokenId id = elements[0].index_below(data.pieces.size());
  if (!data.is_special[id]) elements[0].fail(std::to_string(id) + " is not the id of a special token");
  if (data.adds_bos) single.fail("adds a second special token");
  data.bos_id = id;
  data.adds_bos = true;
}

void read_post_processor(const JsonField& processor, TokenizerData& data) {
  if (is_type(processor, "TemplateProcessing")) {
    read_template(processor, data);
  } else if (is_type(processor, "Sequence")) {
    for (const JsonField& part : processor["processors"].elements()) read_post_processor(part, data);
  } else if (!is_type(processor, "ByteLevel")) {  // which moves offsets alone, not ids
    processor.fail(".type", "only \"TemplateProcessing\", \"ByteLevel\" and \"Sequence\" are supported");
  }
}

/// A token of tokenizer_config.json: its text, or an object that holds it.
const std::string& token_text(const JsonField& field) {
  return field.is_string() ? field.string() : field["content"].string();
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

TokenizerData parse_tokenizer_json(std::string_view text, const std::string& source) {
  const JsonDocument document(text, source);
  const JsonField root(document);
  const JsonField model = root["model"];
  TokenizerData data;
  data.source = source;
  check_surroundings(root);
  check_model(model);
  data.pre_split = read_pre_split(root["pre_tokenizer"]);
  data.ignore_merges = model.boolean("ignore_merges", false);
  read_pieces(root, data);
  read_merges(model["merges"], data);
  if (const auto processor = root.find("post_processor")) read_post_processor(*processor, data);
  return data;
}

void parse_tokenizer_config(std::string_view text, const std::string& source, TokenizerData& data) {
  const JsonDocument document(text, source);
  const JsonField root(document);
  if (const auto bos = root.find("bos_token")) {
    const std::string& literal = token_text(*bos);
    const auto found = std::find(data.pieces.begin(), data.pieces.end(), literal);
    const auto id = static_cast<TokenId>(found - data.pieces.begin());
    if (found == data.pieces.end() || !data.is_special[id]) {
      bos->fail(in_quotes(literal) + " is not a special token of " + data.source);
    }
    if (data.adds_bos && id != data.bos_id) {
      bos->fail(in_quotes(literal) + " is not the token that " + data.source + " puts before the text, " +
                in_quotes(data.pieces[data.bos_id]));
    }
    data.bos_id = id;
  }
  const auto chat_template = root.find("chat_template");
  if (!chat_template) return;
  if (!chat_template->is_array()) {
    data.chat_template = recognize_chat_template(chat_template->string());
    return;
  }
  for (const JsonField& named : chat_template->elements()) {
    if (named["name"].string() != "default") continue;
    data.chat_template = recognize_chat_template(named["template"].string());
  }
}

TokenizerData read_tokenizer_json(const std::string& path) {
  const MappedFile file(path);
  TokenizerData data = parse_tokenizer_json(text_of(file), path);

  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (const auto config = folder / "tokenizer_config.json"; std::filesystem::exists(config)) {
    parse_tokenizer_config(text_of(MappedFile(config.string())), config.string(), data);
  }
  // Newer folders keep the template in a file of its own, which then counts.
  if (const auto jinja = folder / "chat_template.jinja"; std::filesystem::exists(jinja)) {
    data.chat_template = recognize_chat_template(text_of(MappedFile(jinja.string())));
  }
  return data;
}

}  // namespace mini_engine
