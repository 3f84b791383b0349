#include "mini_engine/json_document.hpp"

#include <vector>

#include "mini_engine/error.hpp"

namespace mini_engine {

JsonDocument::JsonDocument(std::string_view text, std::string source) : source_(std::move(source)) {
  constexpr std::size_t kMaxDepth = 64;
  struct Frame {  // an object or array that the parser is inside of
    std::uint32_t object;
    Member* member;  // the one being read: of this object, or the one whose value this array is
  };
  std::vector<Frame> frames;
  std::uint32_t num_objects = 0;
  const char* reached = text.data();
  const auto offset = [&] { return static_cast<std::uint64_t>(reached - text.data()); };

  using Event = nlohmann::json::parse_event_t;
  const auto on_event = [&](int, Event event, nlohmann::json& value) {
    switch (event) {
      case Event::object_start:
      case Event::array_start: {
        if (frames.size() == kMaxDepth) throw file_error(source_, "JSON", offset(), "nested deeper than 64 levels");
        Member* outer = frames.empty() ? nullptr : frames.back().member;
        if (event == Event::array_start) {
          frames.push_back({kNoObject, outer});
        } else {
          if (outer != nullptr) outer->object = num_objects;
          frames.push_back({num_objects++, nullptr});
        }
        break;
      }
      case Event::object_end:
      case Event::array_end:
        frames.pop_back();
        break;
      case Event::key: {
        const auto& key = value.get_ref<const std::string&>();
        const auto [place, is_new] = members_.try_emplace({frames.back().object, key}, Member{offset(), kNoObject});
        if (!is_new) throw file_error(source_, key, offset(), "duplicate key");
        frames.back().member = &place->second;
        break;
      }
      case Event::value:
        break;
    }
    return true;
  };
  try {
    root_ = nlohmann::json::parse(TrackedPosition(text.data(), &reached),
                                  TrackedPosition(text.data() + text.size(), &reached), on_event);
  } catch (const nlohmann::json::exception& error) {
    throw file_error(source_, "JSON", offset(), error.what());
  }
}

std::uint64_t JsonDocument::offset_of(std::initializer_list<std::string_view> path) const {
  Member member{0, 0};  // as if the root were a member's value
  for (const std::string_view name : path) {
    const auto found = members_.find({member.object, std::string(name)});
    if (found == members_.end()) return 0;
    member = found->second;
  }
  return member.offset;
}

}  // namespace mini_engine
