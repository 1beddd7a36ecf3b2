// The GPU engine's kernels on a simulated block against a network in plain loops: every shape,
// forward and backward, every precision; and that neither the batch, nor the number of blocks, nor
// whether weights are resident changes a bit.
#include "tests/densenet/gpu_net.h"

using namespace fastrobust;

void compare(const char* label, const DenseNetShape& shape, int64_t N) {
  // Rounded operands differ by one unit where two orders of a sum round to different sides; a ReLU
  // then may open elsewhere.
  const double allowed[3] = {2e-6, 2e-4, 1e-3};
  for (Precision p : {Precision::kFloat32, Precision::kTf32, Precision::kBfloat16}) {
    const Net net(shape, p);
    const auto x = normals(N * net.image(), 1), dz = normals(2 * N * shape.outputs, 2);
    const auto got = net.run(x, dz, N, {}), wanted = net.reference(x, dz, N);
    const size_t outputs = N * shape.outputs;
    CHECK(got.size() == wanted.size());
    const double forward = gap(got, wanted, 0, outputs);
    const double backward = gap(got, wanted, outputs, got.size());
    std::printf("%-28s precision %d: forward %.1e, backward %.1e\n", label, int(p), forward,
                backward);
    CHECK(forward < allowed[int(p)]);
    CHECK(backward < allowed[int(p)]);

    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    CHECK(same(got, net.run(x, dz, N, {false, kMostChunk, 3})));
    CHECK(same(got, net.run(x, dz, N, {true, kStep, 1})));
    // The last image alone.
    const std::vector<float> own(x.end() - net.image(), x.end());
    const std::vector<float> cotangent(dz.begin() + (N - 1) * shape.outputs,
                                       dz.begin() + N * shape.outputs);
    const auto alone = net.run(own, cotangent, 1, {});
    CHECK(std::equal(alone.begin(), alone.begin() + shape.outputs,
                     got.begin() + (N - 1) * shape.outputs));
    CHECK(std::equal(alone.begin() + shape.outputs, alone.end(),
                     got.begin() + outputs + (N - 1) * net.image()));
  }
}

// One product on tensor cores, lane by lane, against plain loops.
template <Precision P, int kColumns>
void product_of_a_warp() {
  using Unit = Operand<P>;
  const int K = 32, stride = strip_stride<Unit>(K);
  const auto a = normals(kTileRows * K, 3), w = normals(K * kColumns, 4);
  alignas(16) static Unit rows[kTileRows * 64], packed[48 * 64];
  for (int r = 0; r < kTileRows; ++r)
    for (int k = 0; k < K; ++k) rows[r * stride + k] = operand<P>(a[r * K + k]);
  packing::conv<P>(
      K, kColumns, 1, [&](int k, int n, int) { return w[k * kColumns + n]; },
      reinterpret_cast<unsigned char*>(packed));
  SimulatedTeam::Tile<P, kColumns> tile;
  tile.clear();
  tile.template multiply<1>({rows, stride, 0, nullptr}, packed, K);
  alignas(16) static float sums[kTileRows * 64];
  tile.store(sums, kColumns + kPiece);
  for (int r = 0; r < kTileRows; ++r)
    for (int n = 0; n < kColumns; ++n) {
      double wanted = 0;
      for (int k = 0; k < K; ++k)
        wanted +=
            double(to_float(operand<P>(a[r * K + k]))) * to_float(operand<P>(w[k * kColumns + n]));
      CHECK(std::fabs(sums[r * (kColumns + kPiece) + n] - wanted) < 1e-4);
    }
}

template <Precision P>
void products() {
  product_of_a_warp<P, 16>();
  product_of_a_warp<P, 32>();
  product_of_a_warp<P, 48>();
}

void bytes_moved() {
  const DenseNetShape shape{{6, 6, 6}, {24, 48, 60}, 12, true, 3, 10, 32, 32};
  for (Precision p : {Precision::kFloat32, Precision::kBfloat16}) {
    const DenseNetCudaPlan plan(shape, p);
    const double forward = plan.forward_bytes() / 1e6, backward = plan.backward_bytes() / 1e6;
    std::printf("40-12, 32x32x3, precision %d: %.2f MB forward, %.2f MB backward; kept %.3f MB\n",
                int(p), forward, backward, plan.state_size / 1e6);
    CHECK(densenet_fits(plan));
    CHECK(forward + backward < (p == Precision::kBfloat16 ? 10 : 15));
  }
}

int main() {
  products<Precision::kFloat32>();
  products<Precision::kTf32>();
  products<Precision::kBfloat16>();
  compare("BC 13x30", {{2, 2}, {10, 13}, 5, true, 3, 7, 13, 30}, 3);
  compare("BC 9x7, three blocks", {{2, 1, 2}, {16, 16, 14}, 8, true, 1, 10, 9, 7}, 3);
  compare("BC 8x8, growth 12", {{3}, {24}, 12, true, 3, 33, 8, 8}, 1);
  compare("plain 9x7", {{3, 2}, {16, 31}, 5, false, 2, 10, 9, 7}, 3);
  compare("plain 13x30, growth 12", {{2}, {50}, 12, false, 9, 3, 13, 30}, 1);
  compare("BC 5x6, growth 24", {{2, 1}, {48, 90}, 24, true, 3, 10, 5, 6}, 2);
  bytes_moved();
  return report();
}
