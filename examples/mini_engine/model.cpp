#include "model.hpp"

namespace mini_engine {

std::vector<float> Model::forward(const Pass& pass, Sequence& sequence) {
  const SequencePass one{.pass = pass, .sequence = &sequence};
  return forward({&one, 1})[0];
}

}  // namespace mini_engine
