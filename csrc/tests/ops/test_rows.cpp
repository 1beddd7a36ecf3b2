// Whole kernels: every instruction set gives the same bits, a row does not see its batch, and
// scores and gradients agree with a plain loop in long double.
#include <cmath>

#include "rows/cpu.h"
#include "tests/check.h"
#include "tests/ops/samples.h"

using namespace fastrobust;

// The bytes written by all kernels in turn, computed by `rows` of them at a time.
template <typename T>
std::vector<unsigned char> run_all(Isa isa, int64_t rows) {
  active_isa() = isa;
  std::vector<unsigned char> all;
  Samples<T> samples;
  samples.each_kernel([&](const auto& args) {
    for (int64_t row = 0; row < args.N; row += rows)
      cpu_rows(args, row, std::min(row + rows, args.N));
    const auto bytes = samples.bytes();
    all.insert(all.end(), bytes.begin(), bytes.end());
  });
  return all;
}

template <typename T>
void same_bits() {
  const auto portable = run_all<T>(Isa::kPortable, 5);
  CHECK(portable == run_all<T>(Isa::kPortable, 1));
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    if (isa > best_isa()) {
      std::printf("%s: not on this CPU\n", name(isa));
      continue;
    }
    CHECK(portable == run_all<T>(isa, 5));
    CHECK(portable == run_all<T>(isa, 2));
  }
  active_isa() = best_isa();
}

// The margin loss of a tanh head, whose gradient is tanh'(z) (Y_rival - Y_y) / T.
template <typename T>
void margin_of_codewords(T tolerance) {
  Samples<T> s;
  const auto a = s.head(Activation::kTanh, Loss::kMargin);
  cpu_rows(a, 0, a.N);
  for (int64_t row = 0; row < a.N; ++row) {
    std::vector<long double> score(a.K, 0);
    for (int64_t k = 0; k < a.K; ++k)
      for (int64_t j = 0; j < a.d; ++j) {
        const long double y = a.vectors[k * a.d + j];
        score[k] += (std::tanh(static_cast<long double>(a.z[row * a.d + j])) - y / 2) * y;
      }
    int64_t best = 0, rival = a.y[row] == 0;
    for (int64_t k = 0; k < a.K; ++k) {
      if (score[k] > score[best]) best = k;
      if (k != a.y[row] && score[k] > score[rival]) rival = k;
    }
    const long double scale = 12.0L / a.d, margin = scale * (score[a.y[row]] - score[rival]);
    CHECK(a.decision[row] == best);
    CHECK(std::fabs(a.margin[row] - margin) < tolerance * a.d);
    CHECK(a.loss[row] == -a.margin[row]);
    for (int64_t j = 0; j < a.d; ++j) {
      const long double u = std::tanh(static_cast<long double>(a.z[row * a.d + j]));
      const long double wanted =
          scale * (1 - u * u) * (a.vectors[rival * a.d + j] - a.vectors[a.y[row] * a.d + j]);
      CHECK(std::fabs(a.dz[row * a.d + j] - wanted) < 8 * tolerance);
    }
  }
}

int main() {
  same_bits<float>();
  same_bits<double>();
  margin_of_codewords<float>(1e-6f);
  margin_of_codewords<double>(1e-15);
  return report();
}
