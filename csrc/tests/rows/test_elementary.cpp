// exp and tanh against long double, in units in the last place; and the special values.
#include <cmath>

#include "rows/elementary.h"
#include "tests/check.h"

using namespace fastrobust;

// |got - wanted| in units in the last place of wanted.
template <typename T>
double ulps(T got, long double wanted) {
  const T near = static_cast<T>(wanted);
  const T unit = std::nextafter(std::fabs(near), kInfinity<T>) - std::fabs(near);
  return static_cast<double>(std::fabs(got - wanted) / unit);
}

template <typename T>
void measure(const char* type, T lowest) {
  double exp_worst = 0, tanh_worst = 0, slope_worst = 0;
  const int kSteps = 400000;
  for (int i = 0; i <= kSteps; ++i) {
    const T x = lowest * i / kSteps;
    exp_worst = std::fmax(exp_worst, ulps(exp_negative(x), expl(x)));
    // Magnitudes from 1e-30 up to where the slope underflows, evenly in the logarithm.
    const T z = (i % 2 ? 1 : -1) * std::exp(-70 + (std::log(-lowest / 2) + 70) * i / kSteps);
    const Tanh<T> t = tanh_slope(z);
    const long double e = expl(-2 * std::fabs(static_cast<long double>(z)));
    tanh_worst = std::fmax(tanh_worst, ulps(t.value, tanhl(z)));
    slope_worst = std::fmax(slope_worst, ulps(t.slope, 4 * e / ((1 + e) * (1 + e))));
  }
  std::printf("%s: exp %.2f, tanh %.2f, slope of tanh %.2f ulp\n", type, exp_worst, tanh_worst,
              slope_worst);
  CHECK(exp_worst <= 1.5);
  CHECK(tanh_worst <= 3);
  CHECK(slope_worst <= 5);
}

template <typename T>
void special_values() {
  CHECK(exp_negative(T(0)) == 1);
  CHECK(exp_negative(-kInfinity<T>) == 0);
  CHECK(exp_negative(T(-1e5)) == 0);
  CHECK(std::isnan(exp_negative(kNan<T>)));
  CHECK(tanh_slope(T(0)).value == 0 && tanh_slope(T(0)).slope == 1);
  CHECK(tanh_slope(kInfinity<T>).value == 1 && tanh_slope(kInfinity<T>).slope == 0);
  CHECK(tanh_slope(-kInfinity<T>).value == -1 && tanh_slope(-kInfinity<T>).slope == 0);
  CHECK(std::isnan(tanh_slope(kNan<T>).value) && std::isnan(tanh_slope(kNan<T>).slope));
  CHECK(tanh_slope(T(20)).value == 1 && tanh_slope(T(20)).slope > 0);
}

int main() {
  measure<float>("float32", -87.0f);
  measure<double>("float64", -708.0);
  special_values<float>();
  special_values<double>();
  return report();
}
