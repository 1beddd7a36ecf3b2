// cw_step: one iteration of Carlini and Wagner's L2 attack for each row, at whatever iteration of
// whatever step of its search for c the row is: judge the image that the network was asked about,
// keep it if it is the best, give up or move on in the search, else take an Adam step in tanh
// space.
//
// The algorithm is cleverhans v2.1.0's (attacks_tf.py, CarliniWagnerL2), image by image: Carlini
// and Wagner 2017, arXiv 1608.04644, section VI.
#pragma once

#include "ops/step.h"

namespace fastrobust {

template <typename T>
struct CwStepArgs {
  using Scalar = T;
  T* x;             // [N, n] in: image that the network was asked about; out: the next one
  T* w;             // [N, n] in, out: x = lo + (hi - lo) (tanh(w) + 1) / 2
  T* m;             // [N, n] in, out: Adam's first moment; not read at iteration 0
  T* v;             // [N, n] in, out: its second moment
  T* origin;        // [N, n] in, out: x at iteration 0, whose distance counts
  const T* x0;      // [N, n] clean image
  const T* grad;    // [N, n] gradient of f by x
  const T* f;       // [N] the loss: the hinge without its max, plus the confidence
  const bool* hit;  // [N] whether x passes the attack's own test
  const bool* first_success;  // [N] whether its first success ends the row
  T* best;                    // [N, n] in, out: the best image so far
  T* best_l2;                 // [N] in, out: its squared distance to the origin
  T* best_f;                  // [N] in, out: its loss while nothing has succeeded
  T* loss;                    // [N] in, out: the loss that an abort compares with
  // c is float64, so that tenfold and halved values are the same in whatever order they are met.
  double* c;           // [N] in, out: weight of f
  double* lower;       // [N] in, out: largest c that failed
  double* upper;       // [N] in, out: smallest c that succeeded
  int64_t* t;          // [N] in, out: iteration within this step of the search
  int64_t* search;     // [N] in, out: step of the search, -1 before the first; done at `searches`
  bool* found;         // [N] in, out: whether this step of the search has succeeded
  bool* won;           // [N] in, out: whether any has
  int64_t iterations;  // of a step of the search
  int64_t searches;    // steps of the search
  int64_t patience;    // iterations between two looks at whether the loss still falls; 0: never
  T learning_rate;
  T abort_from;  // what the first look of a step compares with
  Box<T> box;
  int64_t N, n;
};

constexpr double kNoUpper = 1e10;  // stands for "no c has succeeded yet"

// base^n by squaring, in double and in one order: the same bits on every machine.
FR_HD double power(double base, int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2) result *= base;
  return result;
}

// tanh(w) at iteration 0: a pixel on the edge of the box has a w only once it is pulled inside.
template <typename T>
FR_HD T pulled(T x0, Box<T> box) {
  const T span = box.hi - box.lo;
  T share = (x0 - box.lo) / span;
  share = share < 0 ? T(0) : (share > 1 ? T(1) : share);
  return T(0.999999) * (2 * share - 1);
}

template <typename T>
FR_HD T from_tanh(T tanh, Box<T> box) {
  return fused((tanh + 1) / 2, box.hi - box.lo, box.lo);
}

template <typename T>
constexpr int64_t scratch_size(const CwStepArgs<T>&) {
  return 1;
}

// Where a row stands, read by the whole team before its leader writes it back.
template <typename T>
struct CwRow {
  T l2, f, loss;
  double c, lower, upper;
  int64_t t, search;
  bool found, won, better, ended;
};

// Judges the row's image, whose squared distance is l2, and moves on in the search for c where this
// step of it ends.
template <typename T>
FR_HD CwRow<T> judged(const CwStepArgs<T>& a, int64_t row, T l2) {
  CwRow<T> s{l2,       a.f[row],      a.loss[row],  a.c[row],   a.lower[row], a.upper[row],
             a.t[row], a.search[row], a.found[row], a.won[row], false,        false};
  const T hinge = s.f > 0 ? s.f : T(0);
  const T loss = fused(static_cast<T>(s.c), hinge, l2);
  bool aborted = false;
  if (a.patience > 0 && s.t % a.patience == 0) {
    aborted = loss > T(0.9999) * s.loss;  // then the image is not judged any more
    s.loss = loss;
  }
  const bool hit = a.hit[row] && !aborted;
  const bool closer = l2 < a.best_l2[row];
  if (hit)
    s.better = !s.won || closer;
  else if (!aborted && !s.won)
    s.better = hinge < a.best_f[row] || (hinge == a.best_f[row] && closer);
  s.f = hinge;
  s.found |= hit;
  s.won |= hit;
  s.ended = aborted || ++s.t == a.iterations || (hit && a.first_success[row]);
  if (!s.ended) return s;
  if (s.found)
    s.upper = s.upper < s.c ? s.upper : s.c;
  else
    s.lower = s.lower > s.c ? s.lower : s.c;
  const bool bracketed = s.upper < kNoUpper / 10;
  s.c = bracketed ? (s.lower + s.upper) / 2 : (s.found ? s.c : s.c * 10);
  ++s.search;
  // A long search ends at the smallest c known to succeed.
  if (a.searches >= 10 && s.search == a.searches - 1) s.c = s.upper;
  s.t = 0;
  s.found = false;
  s.loss = a.abort_from;
  return s;
}

// Puts a row at iteration 0.
template <typename T, typename Team>
FR_HD void place(T* x, T* w, T* origin, const T* x0, int64_t n, Box<T> box, Team team) {
  team.each(n, [=](int64_t j) FR_LAMBDA {
    const T start = pulled(x0[j], box);
    w[j] = (log1plus(start) - log1plus(-start)) / 2;  // atanh
    x[j] = origin[j] = from_tanh(tanh_slope(w[j]).value, box);
  });
}

template <typename T, typename Team>
FR_HD void compute_row(const CwStepArgs<T>& a, int64_t row, Team team, T* scratch) {
  if (a.search[row] >= a.searches || (a.first_success[row] && a.won[row])) return;
  const int64_t n = a.n;
  const Box<T> box = a.box;
  T *x = a.x + row * n, *w = a.w + row * n, *m = a.m + row * n, *v = a.v + row * n;
  T *best = a.best + row * n, *origin = a.origin + row * n;
  const T *x0 = a.x0 + row * n, *g = a.grad + row * n;
  if (a.search[row] < 0) {
    place(x, w, origin, x0, n, box, team);
    team.sync();
    if (team.leader()) a.search[row] = 0;
    return;
  }
  team.template sums<kPixelLanes, T>(
      1, n,
      [=](int64_t, int64_t j, T acc) FR_LAMBDA {
        const T gap = x[j] - origin[j];
        return fused(gap, gap, acc);
      },
      [=](int64_t, T sum) FR_LAMBDA { scratch[0] = sum; });
  team.sync();
  const T weight = static_cast<T>(a.c[row]);
  const bool first = a.t[row] == 0;
  const int64_t step = a.t[row] + 1;
  const CwRow<T> s = judged(a, row, scratch[0]);
  team.sync();
  if (s.better) team.each(n, [=](int64_t j) FR_LAMBDA { best[j] = x[j]; });
  if (s.ended) {
    place(x, w, origin, x0, n, box, team);
  } else {
    // Adam in the form of TensorFlow 1: epsilon is added outside of the bias correction.
    const T rate =
        a.learning_rate * static_cast<T>(root(1 - power(0.999, step)) / (1 - power(0.9, step)));
    const T push = s.f > 0 ? weight : T(0), half = (box.hi - box.lo) / 2;
    // Meanwhile the next row is fetched: its sum and its updates would wait for memory.
    const int64_t next = row + 1 < a.N ? (n < kFarAhead ? n : kFarAhead) : 0;
    const Ahead<T, 7> ahead{x + next, origin + next, g + next,   w + next,
                            m + next, v + next,      best + next};
    team.passes(
        n, ahead,
        [=](int64_t j) FR_LAMBDA {
          const T gap = x[j] - origin[j];
          const T slope = half * tanh_slope(w[j]).slope;
          const T dw = (push > 0 ? fused(push, g[j], 2 * gap) : 2 * gap) * slope;
          m[j] = fused(T(0.9), first ? T(0) : m[j], T(0.1) * dw);
          v[j] = fused(T(0.999), first ? T(0) : v[j], T(0.001) * dw * dw);
        },
        [=](int64_t j) FR_LAMBDA { w[j] -= rate * m[j] / (root(v[j]) + T(1e-8)); },
        [=](int64_t j) FR_LAMBDA { x[j] = from_tanh(tanh_slope(w[j]).value, box); });
  }
  if (team.leader()) {
    if (s.better) a.best_l2[row] = s.l2, a.best_f[row] = s.f;
    a.loss[row] = s.loss;
    a.c[row] = s.c, a.lower[row] = s.lower, a.upper[row] = s.upper;
    a.t[row] = s.t, a.search[row] = s.search;
    a.found[row] = s.found, a.won[row] = s.won;
  }
}

}  // namespace fastrobust
