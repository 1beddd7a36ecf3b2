// Sample batches for the tests of whole kernels: their memory, and one Args for each.
#pragma once

#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "ops/conv_spectrum.h"
#include "ops/cw_step.h"
#include "ops/deepfool.h"
#include "ops/head.h"
#include "ops/lbfgs.h"
#include "ops/random_start.h"
#include "ops/square.h"
#include "ops/step.h"

namespace fastrobust {

template <typename T>
struct Samples {
  static constexpr int64_t N = 5, K = 10, d = 131, n = 300;
  std::vector<T> z = random(N * d, 3), vectors = random(K * d, 1), x = random(N * n, 1),
                 x0 = random(N * n, 1), grad = random(N * n, 1), momentum = random(N * n, 1),
                 w = random(N * n, 2), m = random(N * n, 1), origin = random(N * n, 1),
                 v = std::vector<T>(N * n, T(0.5)), number = std::vector<T>(4 * N),
                 slopes = random(N * K * n, 1), shifts = random(2 * N * n, 1),
                 bends = random(2 * N * n + 1, 1), direction = std::vector<T>(N * n),
                 slope = std::vector<T>(N), rho = random(2 * N, 0.02),
                 out = std::vector<T>(2 * N + N * d);
  SpectrumJob jobs[N] = {{7, 4, 0, 0, 32, 0},
                         {7, 4, 0, 16, 32, 16},
                         {3, 5, 224, 300, 48, 224},
                         {3, 5, 224, 316, 48, 240},
                         {3, 5, 224, 332, 48, 256}};
  std::vector<T> spectrum = std::vector<T>(7 * 32 + 3 * 48);
  std::vector<double> weight = std::vector<double>(3 * N);
  std::vector<int64_t> count{0, 7, 10, 19, 3, 0, 0, 1, 2, 3};
  bool flag[4 * N] = {false, true, false, true};
  bool live[N] = {false, true, true, true, true}, moved[N] = {};
  std::vector<int64_t> sides{10, 15, 4, 4, 1, 15, 3, 2}, asked{3, 0, 1, 2, 3};
  std::vector<double> loss{2, 2, 2, 0, 2}, held_loss = std::vector<double>(N, 1);
  bool hit[N] = {true, false, false, true, true}, valid[N] = {true, true, true, true, false},
       won[N] = {};
  std::vector<int64_t> y{0, 9, 3, 3, 7}, index = std::vector<int64_t>(N);

  static std::vector<T> random(int64_t count, T scale) {
    std::mt19937 engine(static_cast<unsigned>(count));
    std::normal_distribution<T> normal(0, scale);
    std::vector<T> values(count);
    for (T& value : values) value = normal(engine);
    return values;
  }

  DecodeArgs<T> decode() { return {z.data(), vectors.data(), index.data(), out.data(), N, K, d}; }

  HeadArgs<T> head(Activation activation, Loss loss) {
    const bool square = activation == Activation::kSoftmax;
    return {z.data(),
            square ? nullptr : vectors.data(),
            y.data(),
            out.data(),
            out.data() + 2 * N,
            index.data(),
            out.data() + N,
            activation,
            loss,
            N,
            square ? d : K,
            d};
  }

  StepArgs<T> step(StepKind kind) {
    return {x.data(),
            x0.data(),
            grad.data(),
            momentum.data(),
            {nullptr, T(0.3)},
            {nullptr, T(0.1)},
            T(0.9),
            {-1, 1},
            kind,
            N,
            n};
  }

  // Rows at the start, in the middle, before an abort and at the end of a step of the search.
  CwStepArgs<T> cw_step() {
    for (T& f : number) f = 1;
    number[1] = -1, number[2 * N + 2] = kInfinity<T>;
    for (int64_t row = 0; row < N; ++row) weight[row] = 1, weight[2 * N + row] = kNoUpper;
    T* f = number.data();
    return {x.data(),
            w.data(),
            m.data(),
            v.data(),
            origin.data(),
            x0.data(),
            grad.data(),
            f,
            flag,
            flag + N,
            momentum.data(),
            f + N,
            f + 2 * N,
            f + 3 * N,
            weight.data(),
            weight.data() + N,
            weight.data() + 2 * N,
            count.data(),
            count.data() + N,
            flag + 2 * N,
            flag + 3 * N,
            20,
            3,
            5,
            T(0.01),
            T(1e6),
            {-3, 3},
            N,
            n};
  }

  StartArgs<T> start(Norm norm) {
    return {x.data(), x0.data(), y.data(), {nullptr, 2}, {nullptr, T(0.3)}, {-1, 1}, 42,
            norm,     N,         n};
  }

  // Images of 2x10x15 pixels, not all of them inside their balls: one that is done, two that are
  // better, the window of one being all of it, one that is a success, and one without an answer.
  SquareArgs<T> square() {
    return {x.data(),
            momentum.data(),
            held_loss.data(),
            won,
            asked.data(),
            x0.data(),
            loss.data(),
            hit,
            valid,
            live,
            sides.data(),
            y.data(),
            y.data(),
            {nullptr, T(0.3)},
            {-1, 1},
            42,
            N,
            n,
            2,
            10,
            15,
            4};
  }

  // The first row stays where it is; gaps are any numbers.
  DeepFoolArgs<T> deepfool() {
    return {
        x.data(), momentum.data(), x0.data(), slopes.data(), z.data(), live, moved, {-1, 1}, N, K,
        n};
  }

  // Rings of two pairs that hold 0, 9, 3, 3 and 7: none, and more than there is room for.
  LbfgsArgs<T> lbfgs() {
    return {shifts.data(),
            bends.data(),
            rho.data(),
            y.data(),
            x.data(),
            grad.data(),
            direction.data(),
            slope.data(),
            T(0.5),
            {-1, 1},
            N,
            2,
            n};
  }

  // Two rows of one convolution with 7 channels, three of one with 3.
  ConvSpectrumArgs<T> conv_spectrum() {
    return {slopes.data(), vectors.data(), jobs, spectrum.data(), N, 7};
  }

  // Runs f(args) for every kernel and every variant of it.
  template <typename F>
  void each_kernel(F f) {
    f(decode());
    for (Activation activation : {Activation::kTanh, Activation::kSoftmax, Activation::kNone})
      for (Loss loss : {Loss::kCe, Loss::kMse, Loss::kMargin, Loss::kDlr, Loss::kCw,
                        Loss::kDistance, Loss::kSquared})
        f(head(activation, loss));
    f(TanhMseArgs<T>{z.data(), z.data() + d, out.data(), nullptr, nullptr, nullptr, N - 1, d});
    for (StepKind kind : {StepKind::kSign, StepKind::kMomentum, StepKind::kL2}) f(step(kind));
    f(cw_step());
    f(deepfool());
    for (Norm norm : {Norm::kLinf, Norm::kL2}) f(start(norm));
    f(lbfgs());
    f(square());
    f(conv_spectrum());
  }

  // Everything that a kernel may have written.
  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> all;
    auto append = [&](const auto& v) {
      const auto* first = reinterpret_cast<const unsigned char*>(std::data(v));
      all.insert(all.end(), first, first + std::size(v) * sizeof(v[0]));
    };
    append(out), append(index), append(x), append(momentum), append(w), append(m), append(v),
        append(origin);
    append(number), append(weight), append(count), append(flag), append(moved), append(direction),
        append(slope), append(spectrum), append(held_loss), append(won), append(asked);
    return all;
  }
};

}  // namespace fastrobust
