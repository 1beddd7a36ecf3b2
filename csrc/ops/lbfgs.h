// lbfgs: the direction of a projected L-BFGS step, by the two-loop recursion on the free pixels.
#pragma once

#include "ops/step.h"

namespace fastrobust {

template <typename T>
struct LbfgsArgs {
  using Scalar = T;
  const T* s;            // [N, m, n] the last moves: number p stands at p % m
  const T* y;            // [N, m, n] the changes of the gradient that came with them
  const T* rho;          // [N, m] 1 / s.y of each pair; one that is not > 0 is left out
  const int64_t* pairs;  // [N] moves made since the row forgot
  const T* x;            // [N, n] the iterate, inside the box
  const T* grad;         // [N, n] gradient of the objective, descended
  T* direction;          // [N, n] out: projection of x - H g, minus x
  T* slope;              // [N] out: gradient times direction
  T scale;               // inverse Hessian where there is no pair
  Box<T> box;
  int64_t N, m, n;
};

// Passes over the pixels of one row. A pixel at a bound whose gradient points out of the box is
// fixed, all others are free; d is 0 on fixed ones.
template <typename T, typename Team>
struct BoxedRow {
  const T *x, *g;  // [n]
  T* d;            // [n] what the recursion works on
  T* sum;          // one scalar that the team shares
  Box<T> box;
  int64_t n;
  Team team;

  FR_HD bool free(int64_t j) const {
    return !((x[j] <= box.lo && g[j] > 0) || (x[j] >= box.hi && g[j] < 0));
  }

  // Sum of term(j, acc) over the pixels, known to the whole team.
  template <typename Term>
  FR_HD T total(Term term) const {
    T* shared = sum;
    team.template sums<kPixelLanes, T>(
        1, n, [=](int64_t, int64_t j, T acc) FR_LAMBDA { return term(j, acc); },
        [=](int64_t, T value) FR_LAMBDA { *shared = value; });
    team.sync();
    return *shared;
  }

  // d = g; returns d.d.
  FR_HD T start() const {
    const BoxedRow row = *this;
    return total([=](int64_t j, T acc) FR_LAMBDA {
      row.d[j] = row.free(j) ? row.g[j] : T(0);
      return fused(row.d[j], row.d[j], acc);
    });
  }

  // d += factor * v; returns w.d.
  FR_HD T add(T factor, const T* v, const T* w) const {
    const BoxedRow row = *this;
    return total([=](int64_t j, T acc) FR_LAMBDA {
      row.d[j] = row.free(j) ? fused(factor, v[j], row.d[j]) : T(0);
      return fused(w[j], row.d[j], acc);
    });
  }

  // d += factor * v, then as much of the step down size * d as the box allows; returns g.d.
  FR_HD T project(T factor, const T* v, T size) const {
    const BoxedRow row = *this;
    return total([=](int64_t j, T acc) FR_LAMBDA {
      const T q = row.free(j) ? fused(factor, v[j], row.d[j]) : T(0);
      row.d[j] = Box<T>{row.box.lo - row.x[j], row.box.hi - row.x[j]}.clamp(0 - size * q);
      return fused(row.g[j], row.d[j], acc);
    });
  }
};

// s.d of each pair, then the shared scalar.
template <typename T>
constexpr int64_t scratch_size(const LbfgsArgs<T>& a) {
  return a.m + 1;
}

template <typename T, typename Team>
FR_HD void compute_row(const LbfgsArgs<T>& a, int64_t row, Team team, T* scratch) {
  const int64_t n = a.n, m = a.m, made = a.pairs[row], oldest = made < m ? 0 : made - m;
  const T *s = a.s + row * m * n, *y = a.y + row * m * n, *rho = a.rho + row * m;
  const T *x = a.x + row * n, *g = a.grad + row * n;
  T *sd = scratch, *shared = scratch + m;
  const BoxedRow<T, Team> pixels{x, g, a.direction + row * n, shared, a.box, n, team};

  T square = pixels.start();
  // What is to be added to d waits for the product that comes next: two in one pass.
  const T* waiting = g;
  T factor = 0, gamma = 0, slope = 0;
  for (int64_t p = made - 1; p >= oldest; --p) {
    const int64_t i = p % m;
    if (!(rho[i] > 0)) continue;
    const T* bend = y + i * n;
    if (gamma == 0)  // of the newest pair: s.y / y.y
      gamma = 1 / (rho[i] * pixels.total([=](int64_t j, T acc)
                                             FR_LAMBDA { return fused(bend[j], bend[j], acc); }));
    const T product = pixels.add(factor, waiting, s + i * n);
    if (team.leader()) sd[i] = product;
    factor = -rho[i] * product;
    waiting = bend;
  }
  // The first H is gamma: d stands for d / gamma until it is projected.
  for (int64_t p = oldest; p < made; ++p) {
    const int64_t i = p % m;
    if (!(rho[i] > 0)) continue;
    const T product = pixels.add(factor, waiting, y + i * n);
    factor = rho[i] * (sd[i] / gamma - product);
    waiting = s + i * n;
  }
  if (gamma > 0) slope = pixels.project(factor, waiting, gamma);
  if (!(slope < 0)) {
    if (gamma > 0) square = pixels.start();
    // A box with two sides bounds the step by itself (lnsrlb of L-BFGS-B 3.0, `boxed`).
    const bool closed = a.box.lo > -kInfinity<T> && a.box.hi < kInfinity<T>;
    const T at_most = closed ? a.scale : 1 / root(square);
    slope = pixels.project(0, g, at_most < a.scale ? at_most : a.scale);
  }
  if (team.leader()) a.slope[row] = slope;
}

}  // namespace fastrobust
