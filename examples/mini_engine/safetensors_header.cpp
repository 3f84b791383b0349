#include "mini_engine/safetensors_header.hpp"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/json_document.hpp"

namespace mini_engine {
namespace {

constexpr std::size_t kMaxAxes = 8;
constexpr std::size_t kMaxNameBytes = 4096;

/// Receives the parser's events. Where an event is allowed depends on `place_` alone; the members' names and order are
/// otherwise free.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const char* begin, const char* const* reached, std::uint64_t header_offset, const std::string& file)
      : begin_(begin), reached_(reached), header_offset_(header_offset), file_(file) {}

  std::vector<SafetensorsEntry> take_entries() { return std::move(entries_); }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kOutside:
        place_ = Place::kHeader;
        return true;
      case Place::kHeader:
        if (is_metadata_) {
          place_ = Place::kMetadata;
          metadata_keys_.clear();
        } else {
          place_ = Place::kTensor;
        }
        return true;
      default:
        fail("an object stands where none is allowed");
    }
  }

  bool end_object() override {
    if (place_ == Place::kTensor) finish_tensor();
    place_ = place_ == Place::kHeader ? Place::kOutside : Place::kHeader;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || member_ == Member::kDtype) fail("an array stands where none is allowed");
    place_ = Place::kNumbers;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    if (member_ == Member::kShape) {
      entries_.back().shape = numbers_;
    } else {
      if (numbers_.size() != 2) fail("data_offsets is not two numbers");
      entries_.back().data_offsets = {numbers_[0], numbers_[1]};
    }
    return true;
  }

  bool key(std::string& key) override {
    if (key.size() > kMaxNameBytes) fail("a name is longer than 4096 bytes");
    if (place_ == Place::kHeader) {
      start_entry(key);
    } else if (place_ == Place::kMetadata) {
      if (!metadata_keys_.insert(key).second) fail("duplicate key " + in_quotes(key));
    } else {
      select_member(key);
    }
    return true;
  }

  bool string(std::string& text) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || member_ != Member::kDtype) fail("a string stands where none is allowed");
    entries_.back().dtype = text;
    return true;
  }

  bool number_unsigned(std::uint64_t number) override {
    if (place_ != Place::kNumbers) fail("a number stands where none is allowed");
    if (numbers_.size() == kMaxAxes) fail("more than " + std::to_string(kMaxAxes) + " numbers");
    numbers_.push_back(number);
    return true;
  }

  bool null() override { fail("null stands where none is allowed"); }
  bool boolean(bool) override { fail("a boolean stands where none is allowed"); }
  bool number_integer(std::int64_t) override { fail("a number is negative"); }
  bool number_float(double, const std::string&) override { fail("a number is not whole or exceeds 64 bits"); }
  bool binary(binary_t&) override { fail("binary data stand where none are allowed"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    fail(error.what());
  }

 private:
  enum class Place { kOutside, kHeader, kMetadata, kTensor, kNumbers };
  enum class Member { kDtype, kShape, kDataOffsets };
  static constexpr std::string_view kMemberNames[] = {"dtype", "shape", "data_offsets"};

  void start_entry(const std::string& name) {
    if (!names_.insert(name).second) fail("duplicate key " + in_quotes(name));
    is_metadata_ = name == "__metadata__";
    if (is_metadata_) return;
    has_member_ = {};
    SafetensorsEntry entry;
    entry.name = name;
    entry.offset = position();
    entries_.push_back(std::move(entry));
  }

  void select_member(const std::string& name) {
    const auto* found = std::find(std::begin(kMemberNames), std::end(kMemberNames), name);
    if (found == std::end(kMemberNames)) fail("unknown member " + in_quotes(name));
    const auto member_index = static_cast<std::size_t>(found - std::begin(kMemberNames));
    if (has_member_[member_index]) fail("duplicate key " + in_quotes(name));
    has_member_[member_index] = true;
    member_ = static_cast<Member>(member_index);
  }

  void finish_tensor() {
    for (std::size_t i = 0; i < has_member_.size(); ++i) {
      if (!has_member_[i]) fail(std::string(kMemberNames[i]) + " is missing");
    }
  }

  [[nodiscard]] std::uint64_t position() const {
    return header_offset_ + static_cast<std::uint64_t>(*reached_ - begin_);
  }

  [[noreturn]] void fail(const std::string& what) const {
    const bool inside_tensor = place_ == Place::kTensor || place_ == Place::kNumbers;
    throw file_error(file_, inside_tensor ? entries_.back().name : "header", position(), what);
  }

  const char* begin_;
  const char* const* reached_;
  std::uint64_t header_offset_;
  const std::string& file_;
  std::vector<SafetensorsEntry> entries_;
  std::set<std::string> names_;
  std::set<std::string> metadata_keys_;
  Place place_ = Place::kOutside;
  Member member_ = Member::kDtype;      ///< whose value is being read, inside a tensor
  std::array<bool, 3> has_member_{};    ///< of the tensor being read
  std::vector<std::uint64_t> numbers_;  ///< of the array being read
  bool is_metadata_ = false;
};

}  // namespace

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view header, std::uint64_t header_offset,
                                                       const std::string& file) {
  if (!header.starts_with('{')) throw file_error(file, "header", header_offset, "does not start with '{'");
  const char* reached = header.data();
  HeaderHandler handler(header.data(), &reached, header_offset, file);
  nlohmann::json::sax_parse(TrackedPosition(header.data(), &reached),
                            TrackedPosition(header.data() + header.size(), &reached), &handler);
  return handler.take_entries();
}

}  // namespace mini_engine
