// A DenseNet with random weights for the tests of the GPU engine, on a simulated block and in plain
// loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>

#include "densenet/cuda/passes.h"
#include "tests/check.h"
#include "tests/densenet/densenet_reference.h"
#include "tests/densenet/simulated_team.h"

namespace fastrobust {

// Some way through a network's kernels.
struct Way {
  bool resident = true;
  int chunk = kMostChunk;
  int64_t blocks = 2;
};

struct Net {
  DenseNetShape shape;
  DenseNetCudaPlan plan;
  std::vector<float> folded;
  std::vector<unsigned char> weights;

  Net(const DenseNetShape& shape, Precision precision) : shape(shape), plan(shape, precision) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float>& w = folded;
    const auto add = [&](int64_t count, float spread, float middle = 0) {
      for (int64_t i = 0; i < count; ++i) w.push_back(middle + spread * normal(random));
    };
    const auto conv = [&](int64_t out, int64_t in, int taps) {
      add(out * in * taps, std::sqrt(2.f / (in * taps)));
    };
    const auto norm = [&](int64_t channels) {
      add(channels, 0.5f, 0.8f);  // some scales are negative
      add(channels, 0.3f);
    };
    conv(shape.channels[0], shape.in_channels, 9);
    int64_t now = 0;
    for (size_t b = 0; b < shape.layers.size(); ++b) {
      now = shape.channels[b];
      for (int64_t i = 0; i < shape.layers[b]; ++i, now += shape.growth) {
        norm(now);
        const int64_t width = shape.bottleneck ? 4 * shape.growth : now;
        if (shape.bottleneck) conv(width, now, 1), add(width, 0.3f);
        conv(shape.growth, width, 9);
      }
      norm(now);
      if (b + 1 < shape.layers.size()) conv(shape.channels[b + 1], now, 1);
    }
    conv(shape.outputs, now, 1);
    add(shape.outputs, 0.3f);
    CHECK(static_cast<int64_t>(w.size()) == plan.folded_size);
    weights.resize(plan.weights_size);
    plan.pack(folded.data(), weights.data());
  }

  int64_t image() const { return shape.in_channels * shape.height * shape.width; }

  // z and, for each cotangent in dz, the gradient, one after the other.
  std::vector<float> run(const std::vector<float>& x, const std::vector<float>& dz, int64_t N,
                         const Way& way) const {
    std::vector<float> z(N * shape.outputs, NAN), grad(x.size(), NAN), all;
    std::vector<Piece<float>> state(N * plan.state_size / sizeof(Piece<float>) + 1);
    std::vector<Piece<float>> scratch(N * plan.scratch_size / sizeof(Piece<float>) + 1);
    for (auto* memory : {&state, &scratch})  // whatever stood there before
      std::memset(static_cast<void*>(memory->data()), 0xff, memory->size() * sizeof(Piece<float>));
    DenseNetCudaArgs args{&plan,
                          weights.data(),
                          x.data(),
                          z.data(),
                          reinterpret_cast<unsigned char*>(state.data()),
                          reinterpret_cast<unsigned char*>(scratch.data()),
                          true,
                          nullptr,
                          grad.data(),
                          N};
    const auto simulated = [&](auto task) {
      CHECK(share(task));
      task.sharing.resident = way.resident;
      task.sharing.chunk = std::min(task.sharing.chunk, way.chunk);
      return run_simulated(task, shared_bytes(task), way.blocks);
    };
    CHECK(at_precision(args, [&](const auto& walk) { return walk.forward(simulated); }));
    all = z;
    for (size_t first = 0; first < dz.size(); first += N * shape.outputs) {
      args.dz = dz.data() + first;
      std::memset(static_cast<void*>(scratch.data()), 0xff, scratch.size() * sizeof(Piece<float>));
      CHECK(at_precision(args, [&](const auto& walk) { return walk.backward(simulated); }));
      all.insert(all.end(), grad.begin(), grad.end());
    }
    return all;
  }

  std::vector<float> reference(const std::vector<float>& x, const std::vector<float>& dz,
                               int64_t N) const {
    ReferenceDenseNet net(shape, folded, [this](double v) -> double {
      if (plan.precision == Precision::kBfloat16) return to_float(to_bfloat16(float(v)));
      return plan.precision == Precision::kTf32 ? to_tf32(float(v)) : v;
    });
    net.keeps_rounded = plan.precision == Precision::kBfloat16;
    std::vector<float> all;
    for (int64_t i = 0; i < N; ++i)
      for (double v : net.forward(x.data() + i * image())) all.push_back(v);
    for (size_t first = 0; first < dz.size(); first += N * shape.outputs)
      for (int64_t i = 0; i < N; ++i) {
        net.forward(x.data() + i * image());
        for (double v : net.backward(dz.data() + first + i * shape.outputs)) all.push_back(v);
      }
    return all;
  }
};

inline std::vector<float> normals(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// |a - b| / |b| over a range.
inline double gap(const std::vector<float>& a, const std::vector<float>& b, size_t begin,
                  size_t end) {
  double apart = 0, size = 0;
  for (size_t i = begin; i < end; ++i) {
    apart += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return std::sqrt(apart / size);
}

}  // namespace fastrobust
