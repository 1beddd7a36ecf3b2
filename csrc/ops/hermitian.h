// Eigenvalues of Hermitian matrices, one in each lane of a vector: Householder's reflections make
// them tridiagonal, a QL iteration diagonal. All lanes take the same steps, until the last is done.
#pragma once

#include "rows/elementary.h"
#include "rows/team.h"

namespace fastrobust {

template <typename T>
struct HermitianLimits;
template <>
struct HermitianLimits<float> {
  static constexpr float kNothing = 1e-30f;  // square of an entry that is as good as 0
  static constexpr float kSmall = 3e-15f;    // square of the unit roundoff
};
template <>
struct HermitianLimits<double> {
  static constexpr double kNothing = 1e-60;
  static constexpr double kSmall = 1e-32;
};

constexpr int kMostSteps = 30;  // for one eigenvalue; 2 or 3 are made

// Hermitian matrices, one in each lane. Entry (i, j) with i >= j stands at place(i, j).
template <typename T, int kLanes, typename Team>
struct HermitianLanes {
  static constexpr int L = kLanes;
  T *real, *imag;                        // [r (r + 1) / 2, L]
  T *w_real, *w_imag;                    // [r, L]
  T* off;                                // [r, L] squares beside the diagonal, once tridiagonal
  T *beta, *kappa, *small;               // [L] each
  T *cosine, *sine, *gamma, *p, *shift;  // [L] each: of a QL step, where they are squares
  T* count;                              // of unfinished lanes
  int64_t r;
  Team team;

  static constexpr int64_t scratch_size(int64_t r) { return (r * (r + 4) + 9) * L; }

  FR_HD static HermitianLanes lay(T* scratch, int64_t r, Team team) {
    T *imag = scratch + r * (r + 1) / 2 * L, *w = imag + r * (r + 1) / 2 * L, *lane = w + 3 * r * L;
    return {scratch,      imag,          w,
            w + r * L,    w + 2 * r * L, lane,
            lane + L,     lane + 2 * L,  lane + 3 * L,
            lane + 4 * L, lane + 5 * L,  lane + 6 * L,
            lane + 7 * L, lane + 8 * L,  r,
            team};
  }

  FR_HD static int64_t place(int64_t i, int64_t j) { return (i * (i + 1) / 2 + j) * L; }

  // Squares too small to be divided by are 0.
  FR_HD static T flushed(T square) { return square > HermitianLimits<T>::kNothing ? square : T(0); }

  // What is small beside the matrix, in squares.
  FR_HD void measure() const {
    const HermitianLanes m = *this;
    team.each(L, [=](int64_t lane) FR_LAMBDA { m.small[lane] = HermitianLimits<T>::kNothing; });
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const T *re = real + place(i, j), *im = imag + place(i, j);
        const T weight = HermitianLimits<T>::kSmall * (i == j ? 1 : 2);
        team.each(L, [=](int64_t lane) FR_LAMBDA {
          const T square = fused(re[lane], re[lane], im[lane] * im[lane]);
          m.small[lane] = fused(weight, square, m.small[lane]);
        });
      }
  }

  // The reflection I - beta v v^H that clears column k below its second entry; v takes the place
  // of the column (Golub and Van Loan, Matrix Computations, 5.1 and 8.3.1).
  FR_HD void reflect(int64_t k) const {
    const HermitianLanes m = *this;
    T* square = off + k * L;
    team.each(L, [=](int64_t lane) FR_LAMBDA { square[lane] = 0; });
    for (int64_t i = k + 1; i < r; ++i) {
      const T *re = real + place(i, k), *im = imag + place(i, k);
      team.each(L, [=](int64_t lane) FR_LAMBDA {
        square[lane] = fused(re[lane], re[lane], fused(im[lane], im[lane], square[lane]));
      });
    }
    T *re = real + place(k + 1, k), *im = imag + place(k + 1, k);
    team.each(L, [=](int64_t lane) FR_LAMBDA {
      constexpr T kNothing = HermitianLimits<T>::kNothing;
      const T x = re[lane], y = im[lane], first = fused(x, x, y * y);
      const bool some = square[lane] > kNothing, phase = first > kNothing;
      const T size = root(phase ? first : T(1)), length = root(some ? square[lane] : T(1));
      const T stretch = length / size, product = phase ? size * length : T(0);
      m.beta[lane] = some ? 1 / (square[lane] + product) : T(0);
      re[lane] = phase ? fused(stretch, x, x) : length;
      im[lane] = phase ? fused(stretch, y, y) : T(0);
    });
    team.sync();
  }

  // w = B v for the rest B of the matrix, v from column k; half of B stands for all of it.
  FR_HD void multiply(int64_t k) const {
    const HermitianLanes m = *this;
    team.template grid<L>(k + 1, r, [=](int64_t i, int64_t lane) FR_LAMBDA {
      const int64_t at = i * L + lane, here = place(i, i) + lane, v = place(i, k) + lane;
      m.w_real[at] = m.real[here] * m.real[v];
      m.w_imag[at] = m.real[here] * m.imag[v];
    });
    for (int64_t i = k + 2; i < r; ++i) {  // above the diagonal
      const T *vr = real + place(i, k), *vi = imag + place(i, k);
      const T *br = real + place(i, 0), *bi = imag + place(i, 0);
      team.template grid<L>(k + 1, i, [=](int64_t j, int64_t lane) FR_LAMBDA {
        const int64_t at = j * L + lane;
        const T x = br[at], y = bi[at];
        m.w_real[at] = fused(x, vr[lane], fused(y, vi[lane], m.w_real[at]));
        m.w_imag[at] = fused(x, vi[lane], fused(-y, vr[lane], m.w_imag[at]));
      });
    }
    for (int64_t j = k + 1; j < r - 1; ++j) {  // below it
      const T *vr = real + place(j, k), *vi = imag + place(j, k);
      team.template grid<L>(j + 1, r, [=](int64_t i, int64_t lane) FR_LAMBDA {
        const int64_t at = i * L + lane, here = place(i, j) + lane;
        const T x = m.real[here], y = m.imag[here];
        m.w_real[at] = fused(x, vr[lane], fused(-y, vi[lane], m.w_real[at]));
        m.w_imag[at] = fused(x, vi[lane], fused(y, vr[lane], m.w_imag[at]));
      });
    }
    team.sync();
  }

  // B - v w^H - w v^H, with w = beta B v - (beta^2 / 2) (v^H B v) v.
  FR_HD void apply(int64_t k) const {
    const HermitianLanes m = *this;
    multiply(k);
    team.each(L, [=](int64_t lane) FR_LAMBDA { m.kappa[lane] = 0; });
    for (int64_t i = k + 1; i < r; ++i) {
      const T *vr = real + place(i, k), *vi = imag + place(i, k);
      const T *wr = w_real + i * L, *wi = w_imag + i * L;
      team.each(L, [=](int64_t lane) FR_LAMBDA {
        m.kappa[lane] = fused(vr[lane], wr[lane], fused(vi[lane], wi[lane], m.kappa[lane]));
      });
    }
    team.each(L, [=](int64_t lane) FR_LAMBDA {
      m.kappa[lane] = m.beta[lane] * m.kappa[lane] * (T(0.5) * m.beta[lane]);
    });
    team.sync();
    team.template grid<L>(k + 1, r, [=](int64_t i, int64_t lane) FR_LAMBDA {
      const int64_t at = i * L + lane, v = place(i, k) + lane;
      m.w_real[at] = fused(m.beta[lane], m.w_real[at], -(m.kappa[lane] * m.real[v]));
      m.w_imag[at] = fused(m.beta[lane], m.w_imag[at], -(m.kappa[lane] * m.imag[v]));
    });
    team.sync();
    for (int64_t i = k + 1; i < r; ++i) {
      const T *vr = real + place(i, k), *vi = imag + place(i, k);
      const T *wr = w_real + i * L, *wi = w_imag + i * L;
      T *br = real + place(i, 0), *bi = imag + place(i, 0);
      team.template grid<L>(k + 1, i + 1, [=](int64_t j, int64_t lane) FR_LAMBDA {
        const int64_t at = j * L + lane, v = place(j, k) + lane;
        const T a = m.real[v], b = m.imag[v], c = m.w_real[at], d = m.w_imag[at];
        const T x = fused(-vr[lane], c, fused(-vi[lane], d, br[at]));
        const T y = fused(-vi[lane], c, fused(vr[lane], d, bi[at]));
        br[at] = fused(-wr[lane], a, fused(-wi[lane], b, x));
        bi[at] = fused(-wi[lane], a, fused(wr[lane], b, y));
      });
    }
    team.sync();
  }

  // Makes the matrix tridiagonal; of the entries beside the diagonal their squares are enough.
  FR_HD void reduce() const {
    for (int64_t k = 0; k + 2 < r; ++k) {
      reflect(k);
      apply(k);
    }
    if (r < 2) return;
    const T *re = real + place(r - 1, r - 2), *im = imag + place(r - 1, r - 2);
    T* last = off + (r - 2) * L;
    team.each(L, [=](int64_t lane)
                     FR_LAMBDA { last[lane] = fused(re[lane], re[lane], im[lane] * im[lane]); });
  }

  // Whether entry l is not yet small in some lane.
  FR_HD bool unfinished(int64_t l) const {
    const HermitianLanes m = *this;
    const T* square = off + l * L;
    team.template sums<L, T>(
        1, L,
        [=](int64_t, int64_t lane, T acc)
            FR_LAMBDA { return acc + (square[lane] > m.small[lane] ? T(1) : T(0)); },
        [=](int64_t, T sum) FR_LAMBDA { *m.count = sum; });
    team.sync();
    const bool more = *count > 0;
    team.sync();
    return more;
  }

  // One step of the QL iteration without square roots on rows l to r - 1, as in LAPACK's dsterf
  // (Parlett, The Symmetric Eigenvalue Problem, 8.15: Pal, Walker and Kahan), shifted by an
  // eigenvalue of the first two rows.
  FR_HD void step(int64_t l) const {
    const HermitianLanes m = *this;
    T *top = real + place(l, l), *square = off + l * L;
    const T *next = real + place(l + 1, l + 1), *bottom = real + place(r - 1, r - 1);
    team.each(L, [=](int64_t lane) FR_LAMBDA {
      const T half = T(0.5) * (next[lane] - top[lane]), e = square[lane];
      const T sum = absolute(half) + root(fused(half, half, e));
      const T down = sum > 0 ? e / (sum > 0 ? sum : T(1)) : T(0);
      const T s = top[lane] - (half < 0 ? -down : down), g = bottom[lane] - s;
      m.shift[lane] = s;
      m.cosine[lane] = 1;
      m.sine[lane] = 0;
      m.gamma[lane] = g;
      m.p[lane] = flushed(g * g);
    });
    for (int64_t i = r - 2; i >= l; --i) {
      T *above = off + i * L, *below = off + (i + 1) * L;  // below the last row: unused
      T *d = real + place(i, i), *d_below = real + place(i + 1, i + 1);
      team.each(L, [=](int64_t lane) FR_LAMBDA {
        const T e = flushed(above[lane]), p = m.p[lane], sum = p + e;
        const T inverse = 1 / (sum > 0 ? sum : T(1));
        const T c = sum > 0 ? p * inverse : T(1), s = sum > 0 ? e * inverse : T(0);
        const T old = m.gamma[lane], alpha = d[lane];
        const T g = fused(c, alpha - m.shift[lane], -(s * old));
        below[lane] = m.sine[lane] * sum;
        d_below[lane] = old + (alpha - g);
        m.p[lane] = flushed(c > 0 ? g * g / (c > 0 ? c : T(1)) : m.cosine[lane] * e);
        m.gamma[lane] = g;
        m.cosine[lane] = c;
        m.sine[lane] = s;
      });
    }
    team.each(L, [=](int64_t lane) FR_LAMBDA {
      square[lane] = m.sine[lane] * m.p[lane];
      top[lane] = m.shift[lane] + m.gamma[lane];
    });
  }

  // Leaves the eigenvalues on the diagonal.
  FR_HD void solve() const {
    measure();
    reduce();
    for (int64_t l = 0; l + 1 < r; ++l)
      for (int steps = 0; steps < kMostSteps && unfinished(l); ++steps) step(l);
    team.sync();
  }
};

}  // namespace fastrobust
