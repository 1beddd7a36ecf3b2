// step: one update of a sign or L2 attack, then the eps-ball around x0, then the box.
#pragma once

#include "rows/elementary.h"
#include "rows/team.h"

namespace fastrobust {

enum class StepKind { kSign, kMomentum, kL2 };

template <typename T>
struct StepArgs {
  using Scalar = T;
  T* x;                 // [N, n] in, out: the iterate
  const T* x0;          // [N, n] centre of the ball
  const T* grad;        // [N, n] gradient of the loss, ascended
  T* momentum;          // [N, n] in, out; null unless kMomentum
  PerRow<T> eps;        // [N] radius of the ball
  PerRow<T> step_size;  // [N]
  T decay;              // of the momentum
  Box<T> box;
  StepKind kind;
  int64_t N, n;
};

// Smallest norm that a gradient is divided by (CleverHans 2.1.0, MomentumIterativeMethod).
template <typename T>
FR_HD T guarded(T norm) {
  return norm < T(1e-12) ? T(1e-12) : norm;
}

// v moved by +-size along the sign of g (not at all for 0 and NaN), into [x0 - eps, x0 + eps] and
// the box. NaN in v stays NaN; NaN in x0 bounds nothing.
template <typename T>
FR_HD T sign_step(T v, T x0, T g, T size, T eps, Box<T> box) {
  v += g > 0 ? size : (g < 0 ? -size : T(0));
  const Box<T> ball{x0 - eps, x0 + eps};
  return box.clamp(ball.clamp(v));
}

template <typename T>
constexpr int64_t scratch_size(const StepArgs<T>&) {
  return 2;
}

template <typename T, typename Team>
FR_HD void compute_row(const StepArgs<T>& a, int64_t row, Team team, T* scratch) {
  const int64_t n = a.n;
  T* x = a.x + row * n;
  const T *x0 = a.x0 + row * n, *g = a.grad + row * n;
  const T eps = a.eps[row], size = a.step_size[row];
  const Box<T> box = a.box;
  if (a.kind == StepKind::kSign) {
    team.each(n, [=](int64_t j) FR_LAMBDA { x[j] = sign_step(x[j], x0[j], g[j], size, eps, box); });
    return;
  }
  if (a.kind == StepKind::kMomentum) {
    T* m = a.momentum + row * n;
    const T decay = a.decay;
    team.template sums<kPixelLanes, T>(
        1, n, [=](int64_t, int64_t j, T acc) FR_LAMBDA { return acc + absolute(g[j]); },
        [=](int64_t, T sum) FR_LAMBDA { scratch[0] = sum; });
    team.sync();
    const T mean = guarded(scratch[0] / n);
    team.each(n, [=](int64_t j) FR_LAMBDA {
      m[j] = decay * m[j] + g[j] / mean;
      x[j] = sign_step(x[j], x0[j], m[j], size, eps, box);
    });
    return;
  }
  team.template sums<kPixelLanes, T>(
      1, n, [=](int64_t, int64_t j, T acc) FR_LAMBDA { return fused(g[j], g[j], acc); },
      [=](int64_t, T sum) FR_LAMBDA { scratch[0] = sum; });
  team.sync();
  const T norm = guarded(root(scratch[0]));
  team.template sums<kPixelLanes, T>(
      1, n,
      [=](int64_t, int64_t j, T acc) FR_LAMBDA {
        x[j] += size * (g[j] / norm);
        const T offset = x[j] - x0[j];
        return fused(offset, offset, acc);
      },
      [=](int64_t, T sum) FR_LAMBDA { scratch[1] = sum; });
  team.sync();
  const T length = root(scratch[1]);
  const bool outside = length > eps;
  const T shrink = eps / length;
  team.each(n, [=](int64_t j) FR_LAMBDA {
    x[j] = box.clamp(outside ? x0[j] + (x[j] - x0[j]) * shrink : x[j]);
  });
}

}  // namespace fastrobust
