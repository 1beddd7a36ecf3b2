// square: one step of a random search: hold the image that was asked about if it is better, then
// change one square of pixels of what is held, a linf proposal of the Square attack
// (Andriushchenko et al., arXiv 1912.00049, algorithms 1 and 2).
#pragma once

#include "ops/random_start.h"
#include "ops/step.h"
#include "rows/elementary.h"
#include "rows/team.h"

namespace fastrobust {

template <typename T>
struct SquareArgs {
  using Scalar = T;
  T* x;                  // [N, n] in: the image that was asked about; out: the next one
  T* held;               // [N, n] in, out: the best image so far
  double* held_loss;     // [N] in, out: its loss
  bool* won;             // [N] in, out: whether it is a hit
  int64_t* iteration;    // [N] in, out: images of this run that were asked about, below Q if live
  const T* x0;           // [N, n] centre of the ball
  const double* loss;    // [N] of x
  const bool* hit;       // [N] whether x is a success
  const bool* valid;     // [N] whether the answer at x counts
  const bool* live;      // [N] others stay as they are
  const int64_t* sides;  // [Q, 2] height and width of the window of proposal 1 .. Q
  const int64_t* index;  // [N] place of the image in its data set
  const int64_t* run;    // [N] runs before this one, each of Q images
  PerRow<T> eps;         // [N] radius of the ball
  Box<T> box;
  uint64_t seed;
  int64_t N, n, C, H, W, Q;  // n = C H W
};

// Of a proposal's random numbers the first two choose the corner, and these the channels' signs.
constexpr int64_t kFirstSign = 5;

template <typename T>
FR_HD int64_t scratch_size(const SquareArgs<T>& a) {
  return a.C;
}

template <typename T, typename Team>
FR_HD void compute_row(const SquareArgs<T>& a, int64_t row, Team team, T* scratch) {
  if (!a.live[row]) return;
  const int64_t n = a.n, H = a.H, W = a.W, asked = a.iteration[row];
  const int64_t tall = a.sides[2 * asked], wide = a.sides[2 * asked + 1];
  const int64_t index = a.index[row], query = a.run[row] * a.Q + asked + 1;
  const int64_t pixels = a.C * tall * wide;
  const uint64_t seed = a.seed;
  const bool hit = a.valid[row] && a.hit[row];
  const bool better = hit || (a.valid[row] && a.loss[row] > a.held_loss[row]);
  const T *x0 = a.x0 + row * n, eps = a.eps[row];
  T *x = a.x + row * n, *held = a.held + row * n, *sign = scratch;
  const Box<T> box = a.box;
  // Evenly among the places that the window has room for.
  const Words words = pixel_bits(seed, index, query, 0);
  const int64_t top = static_cast<int64_t>(words.w[0] * 0x1p-24 * (H - tall + 1));
  const int64_t left = static_cast<int64_t>(words.w[1] * 0x1p-24 * (W - wide + 1));
  team.each(a.C, [=](int64_t c) FR_LAMBDA {
    const Words bits = pixel_bits(seed, index, query, (kFirstSign + c) / 4);
    sign[c] = bits.w[(kFirstSign + c) % 4] < (1u << 23) ? T(-1) : T(1);
  });
  team.each(n, [=](int64_t j) FR_LAMBDA {
    if (better) held[j] = x[j];
    x[j] = sign_step(held[j], x0[j], T(0), T(0), eps, box);
  });
  team.sync();  // also: the whole team has read where the row stands
  if (team.leader()) {
    if (better) a.held_loss[row] = a.loss[row];
    a.won[row] |= hit;
    a.iteration[row] = asked + 1;
  }
  const auto place = [=](int64_t k) FR_LAMBDA {
    return (k / (tall * wide) * H + top + k / wide % tall) * W + left + k % wide;
  };
  const auto paint = [=](T way) FR_LAMBDA {
    team.each(pixels, [=](int64_t k) FR_LAMBDA {
      const int64_t j = place(k);
      x[j] = sign_step(held[j], x0[j], way * sign[k / (tall * wide)], 2 * eps, eps, box);
    });
    team.sync();
  };
  paint(T(1));
  const T farthest = team.template top3<T>(pixels,
                                           [=](int64_t k) FR_LAMBDA {
                                             const int64_t j = place(k);
                                             return absolute(x[j] - held[j]);
                                           })
                         .value[0];
  // A pixel that goes from one end to the other goes this far, wherever the box cuts the ball.
  const T room = box.hi - box.lo, far = eps > room ? room : eps;
  team.sync();
  if (farthest < far / 2) paint(T(-1));
}

}  // namespace fastrobust
