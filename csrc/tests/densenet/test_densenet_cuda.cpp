// On a machine with a GPU: its engine gives what the simulated block gives, the same bits each time
// and for each batch. Where there is none, linking this file is the test.
#include "densenet/cuda/engine.h"
#include "tests/densenet/gpu_net.h"

using namespace fastrobust;

// Managed memory, which both sides can read.
template <typename V>
V* managed(int64_t bytes, const void* from = nullptr) {
  void* p = nullptr;
  CHECK(cudaMallocManaged(&p, bytes + 1) == cudaSuccess);
  if (from)
    std::memcpy(p, from, bytes);
  else
    std::memset(p, 0xff, bytes);  // NaN
  return static_cast<V*>(p);
}

// z and the gradient of each cotangent, as Net::run gives them; a first forward keeps nothing.
std::vector<float> run_gpu(const Net& net, const std::vector<float>& x,
                           const std::vector<float>& dz, int64_t N) {
  const int64_t outputs = N * net.shape.outputs;
  DenseNetCudaArgs args{&net.plan,
                        managed<unsigned char>(net.plan.weights_size, net.weights.data()),
                        managed<float>(x.size() * 4, x.data()),
                        managed<float>(outputs * 4),
                        managed<unsigned char>(N * net.plan.state_size),
                        managed<unsigned char>(N * net.plan.scratch_size),
                        false,
                        nullptr,
                        managed<float>(x.size() * 4),
                        N};
  const auto launched = [&] {
    CHECK(densenet_cuda(args, nullptr) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
  };
  launched();
  std::vector<float> all(args.z, args.z + outputs);
  args.keep = true;
  launched();
  CHECK(std::equal(all.begin(), all.end(), args.z));
  args.z = nullptr;
  const float* cotangents = managed<float>(dz.size() * 4, dz.data());
  for (size_t first = 0; first < dz.size(); first += outputs) {
    args.dz = cotangents + first;
    launched();
    all.insert(all.end(), args.grad, args.grad + x.size());
  }
  return all;
}

void compare(const DenseNetShape& shape, int64_t N) {
  const double allowed[3] = {2e-6, 2e-4, 1e-3};  // as in test_densenet_tiles.cpp
  for (Precision p : {Precision::kFloat32, Precision::kTf32, Precision::kBfloat16}) {
    const Net net(shape, p);
    const auto x = normals(N * net.image(), 1), dz = normals(2 * N * shape.outputs, 2);
    const auto got = run_gpu(net, x, dz, N), wanted = net.run(x, dz, N, {});
    CHECK(gap(got, wanted, 0, N * shape.outputs) < allowed[int(p)]);
    CHECK(gap(got, wanted, N * shape.outputs, got.size()) < allowed[int(p)]);
    CHECK(got == run_gpu(net, x, dz, N));
    const std::vector<float> own(x.begin(), x.begin() + net.image());
    const std::vector<float> cotangent(dz.begin(), dz.begin() + shape.outputs);
    const auto alone = run_gpu(net, own, cotangent, 1);
    CHECK(std::equal(alone.begin(), alone.begin() + shape.outputs, got.begin()));
    CHECK(std::equal(alone.begin() + shape.outputs, alone.end(), got.begin() + N * shape.outputs));
  }
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU here: compiled and linked only\n");
    return 77;  // CTest's SKIP_RETURN_CODE
  }
  compare({{2, 2}, {10, 13}, 5, true, 3, 7, 13, 30}, 3);
  compare({{2, 1, 2}, {16, 16, 14}, 8, true, 1, 10, 9, 7}, 3);
  compare({{3, 2}, {16, 31}, 5, false, 2, 10, 9, 7}, 3);
  compare({{6, 6, 6}, {24, 48, 60}, 12, true, 3, 10, 32, 32}, 2);
  return report();
}
