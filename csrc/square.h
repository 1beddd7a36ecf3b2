// square: keep the image of a random search that is better, then change one square of pixels of
// what is kept: a linf proposal of the Square attack (Andriushchenko et al., arXiv 1912.00049,
// algorithm 2).
#pragma once

#include "elementary.h"
#include "start.h"
#include "step.h"
#include "team.h"

namespace fastrobust {

template <typename T>
struct SquareArgs {
  using Scalar = T;
  T* x;                  // [N, n] in: the image that was asked about; out: the next one
  T* held;               // [N, n] in, out: the best image so far
  const T* x0;           // [N, n] centre of the ball
  const bool* better;    // [N] whether x is to be held from now on
  const int64_t* sides;  // [N, 2] height and width of the window, within H and W
  const int64_t* index;  // [N] place of the image in its data set
  const int64_t* query;  // [N] < 2^31, number of the proposal
  PerRow<T> eps;         // [N] radius of the ball
  Box<T> box;
  uint64_t seed;
  int64_t N, n, C, H, W;  // n = C H W
};

// Of a proposal's random numbers the first two choose the corner, and these the channels' signs.
constexpr int64_t kFirstSign = 5;

template <typename T>
FR_HD int64_t scratch_size(const SquareArgs<T>& a) {
  return a.C;
}

template <typename T, typename Team>
FR_HD void compute_row(const SquareArgs<T>& a, int64_t row, Team team, T* scratch) {
  const int64_t n = a.n, H = a.H, W = a.W, tall = a.sides[2 * row], wide = a.sides[2 * row + 1];
  const int64_t index = a.index[row], query = a.query[row], pixels = a.C * tall * wide;
  const uint64_t seed = a.seed;
  const bool better = a.better[row];
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
  team.sync();
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
