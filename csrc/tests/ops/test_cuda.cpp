// On a machine with a GPU: CUDA gives the bits of the CPU for every decision and every step. Where
// there is none, linking this file is the test.
#include <algorithm>
#include <cmath>

#include "rows/cpu.h"
#include "rows/cuda.h"
#include "tests/check.h"
#include "tests/ops/samples.h"

using namespace fastrobust;

// A managed copy of a host vector, which both sides can read.
template <typename V>
V* shared_copy(const std::vector<V>& v) {
  void* p = nullptr;
  CHECK(cudaMallocManaged(&p, v.size() * sizeof(V)) == cudaSuccess);
  return std::copy(v.begin(), v.end(), static_cast<V*>(p)) - v.size();
}

template <typename T>
double worst_gap(const T* a, const T* b, int64_t count) {
  double worst = 0;
  for (int64_t i = 0; i < count; ++i)
    worst = std::fmax(worst, std::fabs(double(a[i]) - double(b[i])));
  return worst;
}

template <typename T>
void compare(double tolerance) {
  Samples<T> s;
  auto decode = s.decode(), decode_gpu = decode;
  cpu_rows(decode, 0, decode.N);
  decode_gpu.u = shared_copy(s.z), decode_gpu.vectors = shared_copy(s.vectors);
  decode_gpu.index = shared_copy(s.index), decode_gpu.distance = shared_copy(s.out);
  CHECK(cuda_rows(decode_gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  CHECK(worst_gap(decode_gpu.index, decode.index, s.N) == 0);
  CHECK(worst_gap(decode_gpu.distance, decode.distance, s.N) == 0);

  for (Activation activation : {Activation::kTanh, Activation::kSoftmax, Activation::kNone})
    for (Loss loss : {Loss::kCe, Loss::kMse, Loss::kMargin, Loss::kDlr, Loss::kCw}) {
      auto head = s.head(activation, loss), gpu = head;
      cpu_rows(head, 0, head.N);
      T* out = shared_copy(std::vector<T>(s.out.size()));
      gpu.z = shared_copy(s.z), gpu.y = shared_copy(s.y), gpu.decision = shared_copy(s.index);
      if (head.vectors) gpu.vectors = shared_copy(s.vectors);
      gpu.loss = out, gpu.margin = out + s.N, gpu.dz = out + 2 * s.N;
      CHECK(cuda_rows(gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
      CHECK(worst_gap(gpu.decision, head.decision, s.N) == 0);
      CHECK(worst_gap(out, s.out.data(), s.out.size()) <= tolerance);
    }

  for (StepKind kind : {StepKind::kSign, StepKind::kMomentum, StepKind::kL2}) {
    auto step = s.step(kind), gpu = step;
    gpu.x = shared_copy(s.x), gpu.x0 = shared_copy(s.x0), gpu.grad = shared_copy(s.grad);
    gpu.momentum = shared_copy(s.momentum);
    cpu_rows(step, 0, step.N);
    CHECK(cuda_rows(gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
    CHECK(worst_gap(gpu.x, step.x, s.N * s.n) == 0);
    CHECK(worst_gap(gpu.momentum, step.momentum, s.N * s.n) == 0);
  }

  auto deepfool = s.deepfool(), deepfool_gpu = deepfool;
  deepfool_gpu.x = shared_copy(s.x), deepfool_gpu.r = shared_copy(s.momentum);
  deepfool_gpu.x0 = shared_copy(s.x0), deepfool_gpu.slopes = shared_copy(s.slopes);
  deepfool_gpu.gaps = shared_copy(s.z);
  const auto flags = shared_copy(std::vector<char>(2 * s.N, 1));
  deepfool_gpu.live = nullptr, deepfool.live = nullptr;
  deepfool_gpu.moved = reinterpret_cast<bool*>(flags);
  cpu_rows(deepfool, 0, deepfool.N);
  CHECK(cuda_rows(deepfool_gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  CHECK(worst_gap(deepfool_gpu.x, deepfool.x, s.N * s.n) == 0);
  CHECK(worst_gap(deepfool_gpu.r, deepfool.r, s.N * s.n) == 0);
  CHECK(worst_gap(deepfool_gpu.moved, deepfool.moved, s.N) == 0);

  for (Norm norm : {Norm::kLinf, Norm::kL2}) {
    auto start = s.start(norm), gpu = start;
    gpu.x = shared_copy(s.x), gpu.x0 = shared_copy(s.x0), gpu.index = shared_copy(s.y);
    cpu_rows(start, 0, start.N);
    CHECK(cuda_rows(gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
    CHECK(worst_gap(gpu.x, start.x, s.N * s.n) <= (norm == Norm::kLinf ? 0 : tolerance));
  }

  auto square = s.square(), square_gpu = square;
  square_gpu.x = shared_copy(s.x), square_gpu.held = shared_copy(s.momentum);
  square_gpu.x0 = shared_copy(s.x0), square_gpu.sides = shared_copy(s.sides);
  square_gpu.index = shared_copy(s.y), square_gpu.run = square_gpu.index;
  square_gpu.loss = shared_copy(s.loss), square_gpu.held_loss = shared_copy(s.held_loss);
  square_gpu.iteration = shared_copy(s.asked);
  const auto shared_flags = [&](const bool* of) {
    return reinterpret_cast<bool*>(shared_copy(std::vector<char>(of, of + s.N)));
  };
  square_gpu.hit = shared_flags(s.hit), square_gpu.valid = shared_flags(s.valid);
  square_gpu.live = shared_flags(s.live), square_gpu.won = shared_flags(s.won);
  cpu_rows(square, 0, square.N);
  CHECK(cuda_rows(square_gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  CHECK(worst_gap(square_gpu.x, square.x, s.N * s.n) == 0);
  CHECK(worst_gap(square_gpu.held, square.held, s.N * s.n) == 0);
  CHECK(worst_gap(square_gpu.held_loss, square.held_loss, s.N) == 0);
  CHECK(worst_gap(square_gpu.won, square.won, s.N) == 0);
  CHECK(worst_gap(square_gpu.iteration, square.iteration, s.N) == 0);

  auto lbfgs = s.lbfgs(), gpu = lbfgs;
  gpu.s = shared_copy(s.shifts), gpu.y = shared_copy(s.bends), gpu.pairs = shared_copy(s.y);
  gpu.rho = shared_copy(s.rho);
  gpu.x = shared_copy(s.x), gpu.grad = shared_copy(s.grad);
  gpu.direction = shared_copy(s.direction), gpu.slope = shared_copy(s.slope);
  cpu_rows(lbfgs, 0, lbfgs.N);
  CHECK(cuda_rows(gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  CHECK(worst_gap(gpu.direction, lbfgs.direction, s.N * s.n) == 0);
  CHECK(worst_gap(gpu.slope, lbfgs.slope, s.N) == 0);

  auto spectrum = s.conv_spectrum(), spectrum_gpu = spectrum;
  spectrum_gpu.gram = shared_copy(s.slopes), spectrum_gpu.waves = shared_copy(s.vectors);
  spectrum_gpu.jobs = shared_copy(std::vector<SpectrumJob>(s.jobs, s.jobs + s.N));
  spectrum_gpu.values = shared_copy(s.spectrum);
  cpu_rows(spectrum, 0, spectrum.N);
  CHECK(cuda_rows(spectrum_gpu, nullptr) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  CHECK(worst_gap(spectrum_gpu.values, spectrum.values, s.spectrum.size()) == 0);
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU here: compiled and linked only\n");
    return 77;  // CTest's SKIP_RETURN_CODE
  }
  compare<float>(1e-5);
  compare<double>(1e-13);
  return report();
}
