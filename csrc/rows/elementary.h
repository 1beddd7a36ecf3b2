// Our own exp and tanh: the same bits on every CPU and GPU, vectorised, without fast-math.
//
// Errors against the true value in units in the last place, float32 and float64, measured by
// csrc/tests/test_elementary.cpp: exp at most 1.5, tanh 3, the slope of tanh 5. Results below the
// smallest normal number are 0. NaN gives NaN.
#pragma once

#include <math.h>

#include "rows/common.h"

namespace fastrobust {

FR_HD float fused(float a, float b, float c) { return fmaf(a, b, c); }  // a * b + c, one rounding
FR_HD double fused(double a, double b, double c) { return fma(a, b, c); }
FR_HD float absolute(float a) { return fabsf(a); }
FR_HD double absolute(double a) { return fabs(a); }
FR_HD float root(float a) { return sqrtf(a); }
FR_HD double root(double a) { return sqrt(a); }
FR_HD float log1plus(float a) { return log1pf(a); }
FR_HD double log1plus(double a) { return log1p(a); }

template <typename To, typename From>
FR_HD To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23, kBias = 127, kDegree = 7;
  static constexpr float kLowest = -87.33654f;  // ln 2^-126
  static constexpr float kRound = 0x1.8p23f;    // adding it rounds to an integer
  static constexpr float kLn2High = 0x1.62e43p-1f, kLn2Low = -0x1.05c61p-29f;
};

template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kDegree = 13;
  static constexpr double kLowest = -708.3964185322641;  // ln 2^-1022
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
};

// exp(x) = power * (1 + rest), power = 2^k and |rest| < 0.42, for x <= 0.
template <typename T>
struct ExpParts {
  T power;
  T rest;
};

template <int n>
inline constexpr double kFactorial = n * kFactorial<n - 1>;
template <>
inline constexpr double kFactorial<0> = 1;

// 1/n! + r/(n+1)! + r^2/(n+2)! + ..., to the last term that counts.
template <typename T, int n>
FR_HD T exp_series(T r) {
  constexpr T kTerm = static_cast<T>(1 / kFactorial<n>);
  if constexpr (n == ExpConstants<T>::kDegree)
    return kTerm;
  else
    return fused(exp_series<T, n + 1>(r), r, kTerm);
}

// x = k ln 2 + r with |r| <= ln 2 / 2; rest = expm1(r) by its Taylor series, whose first missing
// term is below a quarter of a unit in the last place.
template <typename T>
FR_HD ExpParts<T> exp_parts(T x) {
  using C = ExpConstants<T>;
  using Int = typename C::Int;
  const T bounded = x < C::kLowest ? C::kLowest : x;
  const T shifted = fused(bounded, T(1.4426950408889634), C::kRound);
  const T k = shifted - C::kRound;
  const T r = fused(k, -C::kLn2Low, fused(k, -C::kLn2High, bounded));
  const Int exponent = bits<Int>(shifted) - bits<Int>(C::kRound) + C::kBias;
  const T power = bits<T>(static_cast<Int>(exponent << C::kMantissa));
  return {x < C::kLowest ? T(0) : power, fused(r * r, exp_series<T, 2>(r), r)};
}

// exp(x) for x <= 0.
template <typename T>
FR_HD T exp_negative(T x) {
  const ExpParts<T> e = exp_parts(x);
  return fused(e.power, e.rest, e.power);
}

template <typename T>
struct Tanh {
  T value;
  T slope;  // 1 - tanh^2, of full relative precision where tanh rounds to 1
};

// With e = exp(-2|z|): tanh |z| = (1 - e) / (1 + e), slope = 4 e / (1 + e)^2.
template <typename T>
FR_HD Tanh<T> tanh_slope(T z) {
  const ExpParts<T> e = exp_parts(-2 * absolute(z));
  const T minus1 = fused(e.power, e.rest, e.power - 1);  // e - 1 without cancellation
  const T inverse = 1 / (minus1 + 2);
  const T size = -minus1 * inverse;
  return {z < 0 ? -size : size, 4 * fused(e.power, e.rest, e.power) * inverse * inverse};
}

}  // namespace fastrobust
