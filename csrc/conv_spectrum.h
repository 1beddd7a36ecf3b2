// conv_spectrum: singular values of the Fourier matrices of convolutions, by Jacobi's method.
//
// A convolution W on a torus has at each frequency w a matrix F(w) = sum over taps t of W_t
// e^(iwt). Its Gram matrix F F^H = sum over lags l of C_l e^(iwl), C_l = sum over t of W_(t+l)
// W_t^T, has the squares of the singular values as eigenvalues; the C_l, few and the same for all
// frequencies, are given. A row is kLanes frequencies of one convolution, side by side in the lanes
// of a vector.
#pragma once

#include "elementary.h"
#include "team.h"

namespace fastrobust {

constexpr int kFrequencies = 16;     // of a row
constexpr int kWidestSpectrum = 32;  // channels

// Where a row finds what belongs to it.
struct SpectrumJob {
  int64_t r;       // size of the Gram matrix
  int64_t lags;    // terms of its sum: one of each pair l, -l
  int64_t gram;    // offset of its terms in `gram`
  int64_t waves;   // offset of its first frequency in `waves`
  int64_t count;   // frequencies of its convolution, a multiple of kFrequencies
  int64_t values;  // offset of its first frequency in `values`
};

template <typename T>
struct ConvSpectrumArgs {
  using Scalar = T;
  const T* gram;            // of each convolution [lags, 2, r (r + 1) / 2]: lower triangles of
                            // C_l + C_-l, then of C_l - C_-l
  const T* waves;           // of each torus [lags, 2, count]: cos(wl), then sin(wl)
  const SpectrumJob* jobs;  // [N]
  T* values;                // of each convolution [r, count] out: singular values, in no order
  int64_t N, widest;        // widest: the largest r
};

template <typename T>
struct SpectrumLimits;
template <>
struct SpectrumLimits<float> {
  static constexpr float kNothing = 1e-30f;  // square of an entry that is as good as 0
  static constexpr float kSmall = 1e-13f;    // of all entries, in squares: the last sweep
};
template <>
struct SpectrumLimits<double> {
  static constexpr double kNothing = 1e-60;
  static constexpr double kSmall = 1e-30;
};

constexpr int kMostSweeps = 16;  // some 6 are made

// Hermitian matrices, one in each lane. Entry (i, j) with i >= j stands at place(i, j).
template <typename T, typename Team>
struct HermitianLanes {
  static constexpr int L = kFrequencies;
  T *real, *imag;                        // [r (r + 1) / 2, L]
  T *cosine, *sine, *phase_r, *phase_i;  // [L] each: the rotation
  T *moved, *whole;  // [L] each: how much a sweep stirred up; squares of all entries
  T* count;          // of unfinished lanes
  int64_t r;
  Team team;

  FR_HD static int64_t place(int64_t i, int64_t j) { return (i * (i + 1) / 2 + j) * L; }

  // The sum over lags.
  FR_HD void fill(const T* gram, const T* waves, int64_t lags, int64_t stride) const {
    const HermitianLanes m = *this;
    const int64_t entries = r * (r + 1) / 2;
    team.template grid<L>(entries, [=](int64_t k, int64_t lane) FR_LAMBDA {
      m.real[k * L + lane] = 0;
      m.imag[k * L + lane] = 0;
    });
    for (int64_t l = 0; l < lags; ++l) {
      const T *even = gram + 2 * l * entries, *odd = even + entries;
      const T *cosines = waves + 2 * l * stride, *sines = cosines + stride;
      team.template grid<L>(entries, [=](int64_t k, int64_t lane) FR_LAMBDA {
        m.real[k * L + lane] = fused(even[k], cosines[lane], m.real[k * L + lane]);
        m.imag[k * L + lane] = fused(odd[k], sines[lane], m.imag[k * L + lane]);
      });
    }
    team.sync();
  }

  FR_HD void measure() const {
    const HermitianLanes m = *this;
    team.each(L, [=](int64_t lane) FR_LAMBDA { m.whole[lane] = 0; });
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const T *re = real + place(i, j), *im = imag + place(i, j);
        const T weight = i == j ? 1 : 2;
        team.each(L, [=](int64_t lane) FR_LAMBDA {
          const T square = fused(re[lane], re[lane], im[lane] * im[lane]);
          m.whole[lane] = fused(weight, square, m.whole[lane]);
        });
      }
  }

  // The rotation that makes entry (q, p) vanish, and what it does to the diagonal. With the entry
  // b e, |e| = 1: t = tan of the angle solves t^2 + 2 t cot(2 angle) = 1, the smaller root (Golub
  // and Van Loan, Matrix Computations, 8.5.2).
  FR_HD void turn(int64_t p, int64_t q) const {
    const HermitianLanes m = *this;
    T *re = real + place(q, p), *im = imag + place(q, p);
    T *first = real + place(p, p), *second = real + place(q, q);
    team.each(L, [=](int64_t lane) FR_LAMBDA {
      const T x = re[lane], y = im[lane];
      const T square = fused(x, x, y * y);
      const bool some = square > SpectrumLimits<T>::kNothing;
      const T b = root(some ? square : T(1)), inverse = 1 / b;
      const T gap = second[lane] - first[lane];
      const T long_side = absolute(gap) + root(fused(gap, gap, 4 * square));
      const T size = 2 * b / (some ? long_side : T(1));
      const T t = some ? (gap < 0 ? -size : size) : T(0);
      const T c = 1 / root(fused(t, t, T(1)));
      m.cosine[lane] = c;
      m.sine[lane] = t * c;
      m.phase_r[lane] = some ? x * inverse : T(1);
      m.phase_i[lane] = some ? y * inverse : T(0);
      m.moved[lane] = fused(t * t, square, m.moved[lane]);
      first[lane] = fused(-t, b, first[lane]);
      second[lane] = fused(t, b, second[lane]);
      re[lane] = 0;
      im[lane] = 0;
    });
    team.sync();
  }

  // Rotates entries (k, p) and (k, q) for `n` k's from `begin` on; where one of them lies above
  // the diagonal, the conjugate of its mirror image is at hand.
  template <bool kMirrorP, bool kMirrorQ>
  FR_HD void rotate(int64_t p, int64_t q, int64_t begin, int64_t n) const {
    const HermitianLanes m = *this;
    team.template grid<L>(n, [=](int64_t offset, int64_t lane) FR_LAMBDA {
      const int64_t k = begin + offset;
      const int64_t at_p = (kMirrorP ? place(p, k) : place(k, p)) + lane;
      const int64_t at_q = (kMirrorQ ? place(q, k) : place(k, q)) + lane;
      const T c = m.cosine[lane], s = m.sine[lane], er = m.phase_r[lane], ei = m.phase_i[lane];
      const T xr = m.real[at_p], xi = kMirrorP ? -m.imag[at_p] : m.imag[at_p];
      const T yr = m.real[at_q], yi = kMirrorQ ? -m.imag[at_q] : m.imag[at_q];
      // Entry (q, p) is b e, so (p, q) is b conj(e): column q times e makes it real.
      const T zr = fused(yr, er, -(yi * ei)), zi = fused(yr, ei, yi * er);
      const T pi = fused(c, xi, -(s * zi)), qi = fused(s, xi, c * zi);
      m.real[at_p] = fused(c, xr, -(s * zr));
      m.imag[at_p] = kMirrorP ? -pi : pi;
      m.real[at_q] = fused(s, xr, c * zr);
      m.imag[at_q] = kMirrorQ ? -qi : qi;
    });
  }

  // Rotates every pair once; whether some lane needs another sweep. What a sweep leaves outside of
  // the diagonal is what later rotations, by tan t, stirred up of earlier ones: it is no larger
  // than the root of the sum of (t b)^2, and no eigenvalue is farther than that from the diagonal.
  // (The entries b alone say too little: where eigenvalues lie close together t is not small.)
  FR_HD bool sweep() const {
    const HermitianLanes m = *this;
    team.each(L, [=](int64_t lane) FR_LAMBDA { m.moved[lane] = 0; });
    for (int64_t p = 0; p < r - 1; ++p)
      for (int64_t q = p + 1; q < r; ++q) {
        turn(p, q);
        rotate<true, true>(p, q, 0, p);
        rotate<false, true>(p, q, p + 1, q - p - 1);
        rotate<false, false>(p, q, q + 1, r - q - 1);
        team.sync();
      }
    team.template sums<L, T>(
        1, L,
        [=](int64_t, int64_t lane, T acc) FR_LAMBDA {
          return acc + (m.moved[lane] > SpectrumLimits<T>::kSmall * m.whole[lane] ? T(1) : T(0));
        },
        [=](int64_t, T sum) FR_LAMBDA { *m.count = sum; });
    team.sync();
    const bool more = *count > 0;
    team.sync();
    return more;
  }
};

template <typename T>
constexpr int64_t scratch_size(const ConvSpectrumArgs<T>& a) {
  return (a.widest * (a.widest + 1) + 7) * kFrequencies;
}

template <typename T, typename Team>
FR_HD void compute_row(const ConvSpectrumArgs<T>& a, int64_t row, Team team, T* scratch) {
  using Matrix = HermitianLanes<T, Team>;
  constexpr int L = kFrequencies;
  const SpectrumJob job = a.jobs[row];
  const int64_t entries = job.r * (job.r + 1) / 2 * L;
  T* lanes = scratch + 2 * entries;
  const Matrix m{scratch,       scratch + entries, lanes,         lanes + L,     lanes + 2 * L,
                 lanes + 3 * L, lanes + 4 * L,     lanes + 5 * L, lanes + 6 * L, job.r,
                 team};
  m.fill(a.gram + job.gram, a.waves + job.waves, job.lags, job.count);
  m.measure();
  for (int sweep = 0; sweep < kMostSweeps && m.sweep(); ++sweep) {
  }
  T* values = a.values + job.values;
  team.template grid<L>(job.r, [=](int64_t i, int64_t lane) FR_LAMBDA {
    const T square = m.real[Matrix::place(i, i) + lane];
    values[i * job.count + lane] = root(square > 0 ? square : T(0));
  });
}

}  // namespace fastrobust
