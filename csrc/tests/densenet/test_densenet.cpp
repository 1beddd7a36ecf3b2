// The DenseNet engine: outputs and gradients against plain loops in double, and the same bits
// whatever the instruction set, the batch and the images that share a group.
#include <cstdio>
#include <cstring>
#include <limits>

#include "rows/cpu.h"
#include "tests/check.h"
#include "tests/densenet/densenet_naive.h"
#include "tests/densenet/densenet_net.h"

using namespace fastrobust;

using Floats = std::vector<float>;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kCotangents = 2;

struct Case {
  DenseNetShape shape;
  int64_t N, images;  // of the batch, of a group
};

DenseNetShape net_shape(bool bottleneck, int64_t growth, std::vector<int64_t> layers,
                        int64_t in_channels, int64_t height, int64_t width) {
  std::vector<int64_t> channels{bottleneck ? 2 * growth : 16};
  for (size_t b = 0; b + 1 < layers.size(); ++b) {
    const int64_t end = channels[b] + layers[b] * growth;
    channels.push_back(bottleneck ? end / 2 : end);
  }
  return {layers, channels, growth, bottleneck, in_channels, 7, height, width};
}

const Case kCases[] = {
    {net_shape(true, 12, {2, 1}, 3, 32, 32), 1, 1},
    {net_shape(true, 12, {1, 2}, 1, 28, 28), 3, 1},
    {net_shape(true, 8, {3, 3}, 1, 8, 8), 7, 3},
    {net_shape(true, 5, {2, 1, 1}, 2, 9, 7), 3, 2},
    {net_shape(true, 5, {1, 2}, 2, 13, 30), 3, 2},
    {net_shape(true, 8, {1}, 2, 9, 7), 3, 4},
    {net_shape(true, 12, {2, 1}, 1, 16, 16), 5, 3},
    {net_shape(true, 9, {1, 2}, 3, 8, 41), 3, 2},
    {net_shape(false, 35, {2}, 1, 5, 48), 3, 2},
    {net_shape(true, 12, {1, 2, 1}, 1, 4, 5), 5, 3},
    {net_shape(true, 1, {1}, 1, 1, 1), 3, 2},
    {net_shape(false, 12, {2, 1}, 3, 28, 28), 1, 1},
    {net_shape(false, 8, {1, 1, 2}, 3, 8, 8), 7, 3},
    {net_shape(false, 5, {3, 1}, 2, 9, 7), 3, 2},
    {net_shape(false, 5, {2}, 1, 13, 30), 3, 2},
    {net_shape(false, 12, {1, 1}, 1, 32, 32), 1, 1},
    {net_shape(false, 1, {1}, 2, 3, 1), 3, 2},
};

bool same(const Floats& a, const Floats& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Floats part(const Floats& all, int64_t begin, int64_t end, int64_t size) {
  return {all.begin() + begin * size, all.begin() + end * size};
}

// A batch, and what the engine makes of it. All memory is NaN before the engine writes to it.
class Batch {
 public:
  Batch(const DenseNetShape& shape, Operands operands, const Floats& weights, Floats x, Floats dz)
      : shape_(shape),
        operands_(operands),
        weights_(weights),
        pixels_(shape.in_channels * shape.height * shape.width),
        x(std::move(x)),
        dz(std::move(dz)) {}

  // Outputs, then a gradient for each cotangent, of groups of `images`.
  std::vector<Floats> run(int64_t images, bool repeat = false) const {
    const DenseNetPlan plan(shape_, images, operands_);
    CHECK(plan.weights_size == static_cast<int64_t>(weights_.size()));
    const int64_t N = x.size() / pixels_, d = shape_.outputs, groups = (N + images - 1) / images;
    Floats state(groups * plan.state_size, kNaN);
    std::vector<Floats> out{Floats(N * d, kNaN)};
    DenseNetArgs args{&plan, weights_.data(), nullptr, nullptr, state.data(), nullptr, nullptr, N};
    args.x = x.data(), args.z = out[0].data();
    launch(args, 0, groups);
    args.x = nullptr, args.z = nullptr;
    for (int i = 0; i < kCotangents; ++i) {
      out.emplace_back(x.size(), kNaN);
      args.dz = dz.data() + i * N * d, args.grad = out.back().data();
      launch(args, 0, groups);
    }
    if (!repeat) return out;

    // The first cotangent again, after the others and group by group.
    Floats z(N * d, kNaN), again(x.size(), kNaN);
    args.dz = dz.data(), args.grad = again.data();
    for (int64_t group = groups; group-- > 0;) launch(args, group, group + 1);
    CHECK(same(again, out[1]));
    // Without a state: both ways at once, then forward only.
    again.assign(again.size(), kNaN);
    args.x = x.data(), args.z = z.data(), args.state = nullptr;
    launch(args, 0, groups);
    CHECK(same(z, out[0]) && same(again, out[1]));
    z.assign(z.size(), kNaN);
    args.dz = nullptr, args.grad = nullptr;
    launch(args, 0, groups);
    CHECK(same(z, out[0]));
    return out;
  }

  // Images [begin, end) of this batch.
  Batch slice(int64_t begin, int64_t end) const {
    const int64_t N = x.size() / pixels_;
    Floats cotangents;
    for (int i = 0; i < kCotangents; ++i) {
      const Floats own = part(dz, i * N + begin, i * N + end, shape_.outputs);
      cotangents.insert(cotangents.end(), own.begin(), own.end());
    }
    return {shape_, operands_, weights_, part(x, begin, end, pixels_), cotangents};
  }

 private:
  static void launch(const DenseNetArgs& args, int64_t begin, int64_t end) {
    const DenseNetPlan& plan = *args.plan;
    Floats scratch(Scratch::size(plan) + (args.state ? 0 : plan.state_size), kNaN);
    densenet_cpu(args, begin, end, scratch.data());
  }

  const DenseNetShape& shape_;
  const Operands operands_;
  const Floats& weights_;
  int64_t pixels_;

 public:
  Floats x;   // [N, C, H, W]
  Floats dz;  // [kCotangents, N, d]
};

// Distance relative to what is wanted, in the Euclidean norm.
double distance(const Floats& got, int64_t image, const std::vector<double>& wanted) {
  double error = 0, size = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double d = got[image * wanted.size() + i] - wanted[i];
    error += d * d, size += wanted[i] * wanted[i];
  }
  return std::sqrt(size > 0 ? error / size : error);
}

std::vector<double> doubles(const Floats& all, int64_t row, int64_t size) {
  return {all.begin() + row * size, all.begin() + (row + 1) * size};
}

// Images at which no ReLU of the network is so near to 0 that rounding could switch it.
Floats decided_images(NaiveDenseNet& naive, Random& random, int64_t N, int64_t pixels) {
  Floats all;
  while (static_cast<int64_t>(all.size()) < N * pixels) {
    const Floats image = random(pixels, 1);
    naive.forward(doubles(image, 0, pixels));
    if (naive.nearest() > 3e-6) all.insert(all.end(), image.begin(), image.end());
  }
  return all;
}

// The naive gradient is the slope of the naive outputs.
void naive_gradient(NaiveDenseNet& naive, const std::vector<double>& x,
                    const std::vector<double>& dz, Random& random) {
  const std::vector<double> direction = doubles(random(x.size(), 1), 0, x.size());
  double step = 1e-8, slope = 0, wanted = 0;
  for (double side : {-step, step}) {
    std::vector<double> moved = x;
    for (size_t i = 0; i < x.size(); ++i) moved[i] += side * direction[i];
    const std::vector<double> z = naive.forward(moved);
    for (size_t o = 0; o < z.size(); ++o) slope += dz[o] * z[o] / (2 * side);
  }
  naive.forward(x);
  const std::vector<double> gradient = naive.backward(dz);
  for (size_t i = 0; i < x.size(); ++i) wanted += gradient[i] * direction[i];
  CHECK(std::fabs(slope - wanted) < 1e-5 * (1 + std::fabs(wanted)));
}

void against_naive(NaiveDenseNet& naive, const Case& c, const Batch& batch,
                   const std::vector<Floats>& got, double tolerance) {
  const int64_t d = c.shape.outputs, pixels = batch.x.size() / c.N;
  double worst[2] = {};
  auto close = [&](int what, int64_t n, const std::vector<double>& wanted) {
    const double error = distance(got[what], n, wanted);
    CHECK(error < tolerance);  // each: a maximum may pass over NaN
    worst[what > 0] = std::max(worst[what > 0], error);
  };
  for (int64_t n = 0; n < c.N; ++n) {
    close(0, n, naive.forward(doubles(batch.x, n, pixels)));
    for (int i = 0; i < kCotangents; ++i)
      close(1 + i, n, naive.backward(doubles(batch.dz, i * c.N + n, d)));
  }
  std::printf("  %-8s %.1e %.1e\n", name(active_isa()), worst[0], worst[1]);
}

// An image's bits depend neither on its group nor on its batch, even if others there are NaN.
void alone(const Case& c, const Batch& batch, const std::vector<Floats>& all) {
  const int64_t sizes[] = {c.shape.outputs, static_cast<int64_t>(batch.x.size()) / c.N};
  auto like_all = [&](const std::vector<Floats>& some, int64_t begin, int64_t end, int64_t from) {
    for (int i = 0; i <= kCotangents; ++i)
      CHECK(same(part(some[i], begin - from, end - from, sizes[i > 0]),
                 part(all[i], begin, end, sizes[i > 0])));
  };
  for (int64_t images : {int64_t{1}, c.N}) like_all(batch.run(images), 0, c.N, 0);
  for (int64_t n = 0; n < c.N; ++n) like_all(batch.slice(n, n + 1).run(c.images), n, n + 1, n);
  const int64_t n = c.N / 2;
  Batch broken = batch;
  std::fill_n(broken.x.begin() + n * sizes[1], sizes[1], kNaN);
  const std::vector<Floats> got = broken.run(c.images);
  like_all(got, 0, n, 0);
  like_all(got, n + 1, c.N, 0);
  CHECK(std::isnan(got[0][n * sizes[0]]));
}

void compare(const Case& c, unsigned seed, bool half) {
  const DenseNetShape& shape = c.shape;
  std::printf("%s growth %d, %d blocks, %d x %d x %d, %s\n", shape.bottleneck ? "BC" : "plain",
              int(shape.growth), int(shape.layers.size()), int(shape.in_channels),
              int(shape.height), int(shape.width), half ? "bfloat16" : "float32");
  const TestNet net = random_net(shape, seed);
  Random random(seed + 1);
  const int64_t pixels = shape.in_channels * shape.height * shape.width;
  NaiveDenseNet exact(net, shape, false), naive(net, shape, half);
  const Floats x = decided_images(exact, random, c.N, pixels);
  const Floats dz = random(kCotangents * c.N * shape.outputs, 1);
  if (!half) naive_gradient(naive, doubles(x, 0, pixels), doubles(dz, 0, shape.outputs), random);

  std::vector<Floats> vectors;  // what AVX2 and AVX-512 agree on
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa > best_isa() || (half && isa < Isa::kAvx512) || (!half && isa == Isa::kAmx)) continue;
    active_isa() = isa;
    const Operands operands = !half              ? Operands::kFloats
                              : isa == Isa::kAmx ? Operands::kTiles
                                                 : Operands::kPairs;
    const Floats weights = pack(net, operands);
    const Batch batch(shape, operands, weights, x, dz);
    const std::vector<Floats> got = batch.run(c.images, true);
    against_naive(naive, c, batch, got, half ? 3e-3 : 2e-6);
    alone(c, batch, got);
    if (isa == Isa::kAvx2) vectors = got;
    if (isa == Isa::kAvx512 && !half)
      for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], vectors[i]));
  }
  active_isa() = best_isa();
}

int main() {
  active_isa() = best_isa();
  if (!has_bf16()) std::printf("no bfloat16 on this CPU\n");
  unsigned seed = 1;
  for (const Case& c : kCases) {
    compare(c, seed, false);
    if (has_bf16()) compare(c, seed, true);
    seed += 2;
  }
  return report();
}
