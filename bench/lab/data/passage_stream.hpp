// Streams of requests as far as hit rates go: which passages each has, in order, and how long they are.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lab/data/cache_models.hpp"

namespace lab {

struct StreamRequest {
  std::vector<StreamPart> passages;  ///< as retrieved; never empty
  std::vector<StreamPart> served;    ///< the whole prompt as it was served, as far as a cache of prefixes gets
  std::size_t num_leading = 0;       ///< parts of `served` that are no passages
};

struct PassageStream {
  std::string name;
  std::vector<StreamRequest> requests;
};

/// RAGPulse's requests that have passages, in the order of the file: its times begin again in the middle, where by the
/// session ids a second week follows the first. The first two parts of a system prompt are the same throughout and left
/// out; the third, another in nearly every request, stands before the passages as served. Throws as
/// for_each_trace_entry().
[[nodiscard]] PassageStream read_ragpulse(const std::filesystem::path& folder);

/// Mooncake's: a line each {"input_length", "hash_ids"}, the ids of blocks of 512 tokens, of which the last may be
/// shorter. An id stands for a block with everything before it, so that no cache finds more than one of prefixes.
/// Throws mini_engine::Error naming file, line and field.
[[nodiscard]] PassageStream read_mooncake(const std::filesystem::path& path);

/// The cases of a file in its order. Throws as load_cases().
[[nodiscard]] PassageStream read_case_stream(const std::filesystem::path& path);

}  // namespace lab
