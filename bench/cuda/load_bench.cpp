// How fast a model's weights come from a file to the GPU: Llama 3.1 8B shapes in bf16, eight of its layers, in a file of
// this program's own. Once from the disk, with the file out of the system's memory, and once from that memory. Counters:
//   GB/s     of weights
//   of_read  from the disk: that over the rate of the same threads reading the same file in large pieces, to nowhere
//   of_copy  from memory: that over the rate of one copy out of page-locked memory
// PIKV_BENCH_DIR names the folder for the file (5.6 GB); the default is the system's for temporary files.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "harness.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/gpu/device.hpp"
#include "mini_engine/gpu/device_weights.hpp"
#include "mini_engine/mapped_file.hpp"
#include "mini_engine/named_config.hpp"
#include "mini_engine/stored_model.hpp"
#include "mini_engine/thread_pool.hpp"

namespace {

using mini_engine::Encoding;
using mini_engine::Precision;
using mini_engine::TensorRole;
using mini_engine::ThreadPool;
using pikv_bench::now;

constexpr int kLayers = 8;
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

mini_engine::ModelConfig shapes() {
  mini_engine::ModelConfig config = mini_engine::named_config("llama3.1-8b");
  config.num_layers = kLayers;
  return config;
}

/// Tensors one behind the other in a file that goes with the object.
class FileModel final : public mini_engine::ModelFile {
 public:
  FileModel() : path_(folder() / ("pikv_load_bench." + std::to_string(::getpid()))), config_(shapes()) {
    for (const TensorRole role : {TensorRole::kTokenEmbedding, TensorRole::kOutputNorm, TensorRole::kOutputHead}) {
      add(role, 0);
    }
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int role = static_cast<int>(TensorRole::kAttentionNorm); role <= static_cast<int>(TensorRole::kFfnDown); ++role) {
        add(static_cast<TensorRole>(role), layer);
      }
    }
    write();
    file_ = std::make_unique<mini_engine::MappedFile>(path_);
  }
  ~FileModel() override { std::filesystem::remove(path_); }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }
  /// Out of the system's memory: the next reader finds the file on the disk.
  void drop() {
    file_.reset();  // what is mapped stays
    const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    (void)::fsync(file);
    (void)::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
    file_ = std::make_unique<mini_engine::MappedFile>(path_);
  }

  [[nodiscard]] const mini_engine::ModelConfig& config() const override { return config_; }
  [[nodiscard]] mini_engine::TensorView tensor(TensorRole role, int layer) const override {
    const Place& place = places_.at({role, layer});
    return {.encoding = Encoding::kBF16,
            .rows = place.shape.rows,
            .columns = place.shape.columns,
            .bytes = file_->bytes().subspan(place.offset, bytes_of(place.shape))};
  }
  [[nodiscard]] bool has_interleaved_rope_rows() const override { return false; }
  [[nodiscard]] const mini_engine::TokenizerData& tokenizer() const override { throw mini_engine::Error("it has none"); }
  [[nodiscard]] std::array<std::byte, 32> fingerprint() const override { return {}; }

 private:
  struct Place {
    std::size_t offset;
    mini_engine::RoleShape shape;
  };
  static std::filesystem::path folder() {
    const char* const named = std::getenv("PIKV_BENCH_DIR");
    return named != nullptr ? std::filesystem::path(named) : std::filesystem::temp_directory_path();
  }
  static std::size_t bytes_of(const mini_engine::RoleShape& shape) {
    return static_cast<std::size_t>(shape.rows * shape.columns) * 2;
  }
  void add(TensorRole role, int layer) {
    const mini_engine::RoleShape shape = mini_engine::expected_shape(config_, role);
    places_[{role, layer}] = {size_bytes_, shape};
    size_bytes_ += bytes_of(shape);
  }
  void write() const {
    std::ofstream out(path_, std::ios::binary);
    std::vector<std::uint32_t> noise(kPieceBytes / 4);
    std::mt19937 random(1);
    std::generate(noise.begin(), noise.end(), random);
    for (std::size_t done = 0; done < size_bytes_; done += kPieceBytes) {
      out.write(reinterpret_cast<const char*>(noise.data()),
                static_cast<std::streamsize>(std::min(kPieceBytes, size_bytes_ - done)));
    }
    if (!out.flush()) throw mini_engine::Error("cannot write " + path_);
  }

  std::string path_;
  mini_engine::ModelConfig config_;
  std::map<std::pair<TensorRole, int>, Place> places_;
  std::size_t size_bytes_ = 0;
  std::unique_ptr<mini_engine::MappedFile> file_;
};

/// Bytes per second of plain reads of the whole file.
double read_rate(const FileModel& model, ThreadPool& pool) {
  const int file = ::open(model.path().c_str(), O_RDONLY | O_CLOEXEC);
  std::vector<std::vector<char>> buffers(static_cast<std::size_t>(pool.num_threads()), std::vector<char>(kPieceBytes));
  const double start = now();
  pool.run(static_cast<int>((model.size_bytes() + kPieceBytes - 1) / kPieceBytes), [&](int piece, int thread) {
    const auto offset = static_cast<off_t>(static_cast<std::size_t>(piece) * kPieceBytes);
    if (::pread(file, buffers[static_cast<std::size_t>(thread)].data(), kPieceBytes, offset) < 0) {
      throw mini_engine::Error("cannot read " + model.path());
    }
  });
  const double seconds = now() - start;
  ::close(file);
  return static_cast<double>(model.size_bytes()) / seconds;
}

/// Bytes per second of one large copy.
double copy_rate() {
  constexpr std::size_t kBytes = std::size_t{256} << 20;
  const mini_engine::gpu::PinnedBuffer from(kBytes);
  const mini_engine::gpu::DeviceBuffer to(kBytes);
  const mini_engine::gpu::Stream stream;
  double best = 0;
  for (int i = 0; i < 4; ++i) {
    const double start = now();
    mini_engine::gpu::upload(to.as<void>(), from.data(), kBytes, stream.get());
    stream.synchronize();
    best = std::max(best, static_cast<double>(kBytes) / (now() - start));
  }
  return best;
}

void load(benchmark::State& state, bool from_disk) {
  static FileModel model;
  ThreadPool pool(0);
  double rate = 0;
  double read = 0;
  for (auto _ : state) {
    if (from_disk) {
      model.drop();
      read = std::max(read, read_rate(model, pool));
      model.drop();
    }
    const double start = now();
    const auto weights = mini_engine::gpu::DeviceWeights::load(model, Precision::kBFloat16, pool, {});
    const double seconds = now() - start;
    state.SetIterationTime(seconds);
    rate = std::max(rate, static_cast<double>(model.size_bytes()) / seconds);
  }
  state.counters["GB/s"] = rate / 1e9;
  state.counters[from_disk ? "of_read" : "of_copy"] = rate / (from_disk ? read : copy_rate());
}

void register_all() {
  benchmark::RegisterBenchmark("load/disk", load, true)->Iterations(2)->UseManualTime()->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("load/memory", load, false)->Iterations(4)->UseManualTime()->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) { return pikv_bench::run_gpu_benchmarks(argc, argv, register_all); }
