#include "weight_upload.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>

#include "device.hpp"
#include "mini_engine/bfloat16.hpp"

namespace mini_engine::gpu {
namespace {

/// Copies of this size run at the bus's rate; the memory for them is page-locked quickly.
constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;

/// Some rows of a matrix, no more than a lane's buffer holds unless it is a single one.
struct Piece {
  const TensorRows* source;
  std::int64_t begin;
  std::int64_t count;
  std::byte* target;
  std::int64_t row_bytes;

  [[nodiscard]] std::int64_t size_bytes() const { return count * row_bytes; }
};

/// One thread's way to the device: it fills one buffer while the copy out of the other is under way.
class Lane {
 public:
  explicit Lane(std::size_t buffer_bytes) : halves_{Half(buffer_bytes), Half(buffer_bytes)} {}
  ~Lane() { (void)cudaStreamSynchronize(stream_.get()); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void move(const Piece& piece, Precision precision) {
    const Half& half = halves_[next_++ % halves_.size()];
    piece.source->prefetch(piece.begin, piece.count);
    half.sent.synchronize();
    decoded_.resize(static_cast<std::size_t>(piece.source->num_columns()));
    for (std::int64_t i = 0; i < piece.count; ++i) {
      piece.source->read(piece.begin + i, precision, decoded_, half.buffer.data() + i * piece.row_bytes);
    }
    check(cudaMemcpyAsync(piece.target, half.buffer.data(), static_cast<std::size_t>(piece.size_bytes()),
                          cudaMemcpyHostToDevice, stream_.get()),
          "cudaMemcpyAsync");
    half.sent.record(stream_.get());
  }
  void synchronize() const { stream_.synchronize(); }

 private:
  struct Half {
    explicit Half(std::size_t size_bytes) : buffer(size_bytes) {}
    PinnedBuffer buffer;
    Event sent;  // the buffer may be filled again
  };
  std::array<Half, 2> halves_;
  Stream stream_;
  std::vector<float> decoded_;
  std::size_t next_ = 0;
};

}  // namespace

void WeightUpload::vector(const float* target, std::int64_t size, TensorName name) {
  std::vector<float> values(static_cast<std::size_t>(size));
  read_vector(file_, name, values);
  vectors_.push_back({const_cast<float*>(target), std::move(values)});
}

void WeightUpload::matrix(const DeviceMatrix& target, std::int64_t first_row, std::int64_t num_rows, TensorName name) {
  const std::int64_t element_bytes = precision_ == Precision::kFloat32 ? sizeof(float) : sizeof(BFloat16);
  auto* const data = static_cast<std::byte*>(const_cast<void*>(target.data));
  matrices_.push_back(
      {data + first_row * target.columns * element_bytes, TensorRows(file_, name, num_rows, target.columns)});
}

void WeightUpload::run(ThreadPool& pool, const LoadProgress& progress) const {
  const std::int64_t element_bytes = precision_ == Precision::kFloat32 ? sizeof(float) : sizeof(BFloat16);
  std::vector<Piece> pieces;
  std::int64_t all_bytes = 0;
  std::int64_t largest_bytes = 0;
  for (const Rows& rows : matrices_) {
    const std::int64_t row_bytes = rows.source.num_columns() * element_bytes;
    const std::int64_t most_rows = std::max<std::int64_t>(1, kPieceBytes / row_bytes);
    for (std::int64_t begin = 0; begin < rows.source.num_rows(); begin += most_rows) {
      pieces.push_back({&rows.source, begin, std::min(most_rows, rows.source.num_rows() - begin),
                        rows.target + begin * row_bytes, row_bytes});
      all_bytes += pieces.back().size_bytes();
      largest_bytes = std::max(largest_bytes, pieces.back().size_bytes());
    }
  }

  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  std::vector<std::unique_ptr<Lane>> lanes(static_cast<std::size_t>(pool.num_threads()));
  std::mutex mutex;
  std::int64_t bytes_done = 0;
  pool.run(static_cast<int>(pieces.size()), [&](int index, int thread) {
    const Piece& piece = pieces[static_cast<std::size_t>(index)];
    std::unique_ptr<Lane>& lane = lanes[static_cast<std::size_t>(thread)];
    if (lane == nullptr) {
      check(cudaSetDevice(device), "cudaSetDevice");  // a thread has its own, which is the first one otherwise
      lane = std::make_unique<Lane>(static_cast<std::size_t>(largest_bytes));
    }
    lane->move(piece, precision_);
    if (!progress) return;
    const std::lock_guard lock(mutex);
    progress(bytes_done += piece.size_bytes(), all_bytes);
  });
  const Stream stream;
  for (const Vector& one : vectors_) {
    upload(one.target, one.values.data(), one.values.size() * sizeof(float), stream.get());
  }
  stream.synchronize();
  for (const std::unique_ptr<Lane>& lane : lanes) {
    if (lane != nullptr) lane->synchronize();
  }
}

}  // namespace mini_engine::gpu
