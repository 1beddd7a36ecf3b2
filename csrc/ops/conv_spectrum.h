// conv_spectrum: singular values of the Fourier matrices of convolutions.
//
// A convolution W on a torus has at each frequency w a matrix F(w) = sum over taps t of W_t
// e^(iwt). Its Gram matrix F F^H = sum over lags l of C_l e^(iwl), C_l = sum over t of W_(t+l)
// W_t^T, has the squares of the singular values as eigenvalues; the C_l, few and the same for all
// frequencies, are given. A row is kFrequencies frequencies of one convolution, side by side in the
// lanes of a vector.
#pragma once

#include "ops/hermitian.h"

namespace fastrobust {

constexpr int kFrequencies = 16;            // of a row
constexpr int kWidestSpectrum = 256;        // channels: so much has room in a CPU's caches
constexpr int kWidestSpectrumOfBlock = 32;  // and in the shared memory of a GPU's block

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
constexpr int64_t scratch_size(const ConvSpectrumArgs<T>& a) {
  return HermitianLanes<T, kFrequencies, SerialTeam>::scratch_size(a.widest);
}

// The sum over lags.
template <typename T, typename Team>
FR_HD void fill(const HermitianLanes<T, kFrequencies, Team>& m, const T* gram, const T* waves,
                int64_t lags, int64_t stride, Team team) {
  constexpr int L = kFrequencies;
  const int64_t entries = m.r * (m.r + 1) / 2;
  T *real = m.real, *imag = m.imag;
  team.template grid<L>(0, entries, [=](int64_t k, int64_t lane) FR_LAMBDA {
    real[k * L + lane] = 0;
    imag[k * L + lane] = 0;
  });
  for (int64_t l = 0; l < lags; ++l) {
    const T *even = gram + 2 * l * entries, *odd = even + entries;
    const T *cosines = waves + 2 * l * stride, *sines = cosines + stride;
    team.template grid<L>(0, entries, [=](int64_t k, int64_t lane) FR_LAMBDA {
      real[k * L + lane] = fused(even[k], cosines[lane], real[k * L + lane]);
      imag[k * L + lane] = fused(odd[k], sines[lane], imag[k * L + lane]);
    });
  }
  team.sync();
}

template <typename T, typename Team>
FR_HD void compute_row(const ConvSpectrumArgs<T>& a, int64_t row, Team team, T* scratch) {
  using Matrix = HermitianLanes<T, kFrequencies, Team>;
  const SpectrumJob job = a.jobs[row];
  const Matrix m = Matrix::lay(scratch, job.r, team);
  fill(m, a.gram + job.gram, a.waves + job.waves, job.lags, job.count, team);
  m.solve();
  T* values = a.values + job.values;
  const T* real = m.real;
  team.template grid<kFrequencies>(0, job.r, [=](int64_t i, int64_t lane) FR_LAMBDA {
    const T square = real[Matrix::place(i, i) + lane];
    values[i * job.count + lane] = root(square > 0 ? square : T(0));
  });
}

}  // namespace fastrobust
