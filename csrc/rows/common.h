// What every kernel shares: host/device marks, per-row parameters, the row's three best scores.
#pragma once

#include <cstdint>
#include <limits>

// Arithmetic is forced inline so that it takes the instruction set of the row loop around it.
#ifdef __CUDACC__
#define FR_HD __host__ __device__ __forceinline__
#define FR_LAMBDA
#else
#define FR_HD inline __attribute__((always_inline))
#define FR_LAMBDA __attribute__((always_inline))
#endif

namespace fastrobust {

// One number per row, or one for all rows.
template <typename T>
struct PerRow {
  const T* rows;  // [N] or null
  T value;        // where rows is null

  FR_HD T operator[](int64_t row) const { return rows ? rows[row] : value; }
};

template <typename T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();

template <typename T>
inline constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// Bounds of a pixel; infinite where there is no box. NaN in v stays NaN.
template <typename T>
struct Box {
  T lo;
  T hi;

  FR_HD T clamp(T v) const {
    v = v < lo ? lo : v;  // two statements that compilers know as max and min
    return v > hi ? hi : v;
  }
};

// The three best (value, index) pairs, in the order of torch.argmax: NaN first, then the greater
// value, then the lower index. Empty places hold -inf.
template <typename T>
struct Top3 {
  T value[3];
  int64_t index[3];

  FR_HD Top3() {
    for (int i = 0; i < 3; ++i) {
      value[i] = -kInfinity<T>;
      index[i] = INT64_MAX;
    }
  }

  FR_HD static bool better(T v, int64_t i, T w, int64_t j) {
    const bool v_nan = v != v, w_nan = w != w;
    if (v_nan || w_nan) return v_nan && (!w_nan || i < j);
    return v > w || (v == w && i < j);
  }

  FR_HD void insert(T v, int64_t i) {
    if (!better(v, i, value[2], index[2])) return;
    int place = 2;
    for (; place > 0 && better(v, i, value[place - 1], index[place - 1]); --place) {
      value[place] = value[place - 1];
      index[place] = index[place - 1];
    }
    value[place] = v;
    index[place] = i;
  }
};

}  // namespace fastrobust
