// The identity of a model: what its keys and values depend on, hashed.
#pragma once

#include <array>
#include <cstddef>

#include "config.hpp"
#include "tensor_table.hpp"

namespace mini_engine {

/// SHA-256 over the configuration and, in order of their names, every tensor's name, encoding, shape and bytes; each
/// field is framed by its length. File names, and in which of them a tensor lies, do not count.
/// Throws Error when the hash cannot be computed.
[[nodiscard]] std::array<std::byte, 32> fingerprint_of(const ModelConfig& config, const TensorTable& tensors);

}  // namespace mini_engine
