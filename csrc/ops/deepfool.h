// deepfool: one step of every image to the nearest of its linearised decision boundaries, then the
// box (Moosavi-Dezfooli et al., arXiv 1511.04599, algorithm 2; cleverhans v2.1.0, deepfool_attack).
#pragma once

#include "rows/elementary.h"
#include "rows/team.h"

namespace fastrobust {

template <typename T>
struct DeepFoolArgs {
  using Scalar = T;
  T* x;              // [N, n] out: x0 + r in the box
  T* r;              // [N, n] in, out: sum of the steps
  const T* x0;       // [N, n] clean images
  const T* slopes;   // [N, K, n] gradients of the gaps
  const T* gaps;     // [N, K] score of a rival less the highest score
  const bool* live;  // [N] rows to move; null for all
  bool* moved;       // [N] out: whether the row had a boundary to go to
  Box<T> box;
  int64_t N, K, n;
};

constexpr double kBeyond = 1e-5;  // added to every gap, to step over the boundary

template <typename T>
FR_HD int64_t scratch_size(const DeepFoolArgs<T>& a) {
  return a.K;
}

template <typename T, typename Team>
FR_HD void compute_row(const DeepFoolArgs<T>& a, int64_t row, Team team, T* scratch) {
  const int64_t n = a.n, K = a.K;
  const T *x0 = a.x0 + row * n, *slopes = a.slopes + row * K * n, *gaps = a.gaps + row * K;
  T *x = a.x + row * n, *r = a.r + row * n;
  const bool live = !a.live || a.live[row];
  int64_t nearest = -1;
  T distance = kInfinity<T>;
  if (live) {
    team.template sums<kPixelLanes, T>(
        K, n,
        [=](int64_t k, int64_t j, T acc)
            FR_LAMBDA { return fused(slopes[k * n + j], slopes[k * n + j], acc); },
        [=](int64_t k, T sum) FR_LAMBDA { scratch[k] = root(sum); });
    team.sync();
    // The first of the nearest; a slope of zero is infinitely far, one that overflows no direction.
    for (int64_t k = 0; k < K; ++k) {
      const T away = (absolute(gaps[k]) + T(kBeyond)) / scratch[k];
      if (away < distance && scratch[k] < kInfinity<T>) nearest = k, distance = away;
    }
  }
  if (team.leader()) a.moved[row] = nearest >= 0;
  if (nearest < 0) return;
  const T *w = slopes + nearest * n, norm = scratch[nearest];
  const Box<T> box = a.box;
  team.each(n, [=](int64_t j) FR_LAMBDA {
    r[j] += distance * (w[j] / norm);
    x[j] = box.clamp(x0[j] + r[j]);
  });
}

}  // namespace fastrobust
