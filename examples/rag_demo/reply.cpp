#include "rag_demo/reply.hpp"

#include <cstddef>

namespace rag_demo {
namespace {
constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";
}  // namespace

std::string_view first_phrase(std::string_view reply) {
  const std::size_t begin = reply.find_first_not_of(kWhiteSpace);
  if (begin == std::string_view::npos) return {};
  reply.remove_prefix(begin);
  reply = reply.substr(0, reply.find('\n'));
  for (std::size_t i = 0; (i = reply.find_first_of(".,;:!?", i)) != std::string_view::npos; ++i) {
    if (i + 1 == reply.size() || kWhiteSpace.find(reply[i + 1]) != std::string_view::npos) {
      reply = reply.substr(0, i);
      break;
    }
  }
  return reply.substr(0, reply.find_last_not_of(kWhiteSpace) + 1);
}

}  // namespace rag_demo
