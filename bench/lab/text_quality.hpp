// What a format costs on a long text: perplexity when each block of tokens is computed against earlier blocks whose
// keys and values went through the format, in their exact context and at their own positions.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "lab/arm.hpp"
#include "mini_engine/model.hpp"

namespace lab {

struct TextOptions {
  std::size_t num_windows = 0;  ///< 0: as many as the text fills
  std::size_t window_tokens = 2048;
  std::size_t block_tokens = 256;
  int num_threads = 0;  ///< of pikv's backend; 0: all cores
};

struct TextArm {
  Arm arm;
  std::vector<double> nll;  ///< of each window's tokens but its first, summed, in nats
};

struct TextReport {
  std::size_t num_windows = 0, window_tokens = 0, block_tokens = 0;
  std::vector<TextArm> arms;  ///< as kArms

  [[nodiscard]] std::size_t num_scored() const { return num_windows * (window_tokens - 1); }
};

/// Cuts the text into whole windows, each a sequence of its own, and drops the rest. Windows must hold whole blocks,
/// two or more. Throws mini_engine::Error for a text shorter than a window, and when the control arm (fp32) does not
/// equal the engine left to itself. progress: called after each window.
[[nodiscard]] TextReport measure_text(mini_engine::Model& model, std::span<const mini_engine::TokenId> text,
                                      const TextOptions& options,
                                      const std::function<void(std::size_t done, std::size_t count)>& progress);

}  // namespace lab
