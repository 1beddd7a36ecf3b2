// start: a random point of the eps-ball around x0, keyed by (seed, index, restart, pixel).
#pragma once

#include "rows/elementary.h"
#include "rows/philox.h"
#include "rows/team.h"

namespace fastrobust {

enum class Norm { kLinf, kL2 };

template <typename T>
struct StartArgs {
  using Scalar = T;
  T* x;                     // [N, n] out
  const T* x0;              // [N, n] centre of the ball
  const int64_t* index;     // [N] place of the image in its data set
  PerRow<int64_t> restart;  // [N] < 2^31
  PerRow<T> eps;            // [N] radius of the ball
  Box<T> box;
  uint64_t seed;
  Norm norm;
  int64_t N, n;
};

// Four words for pixels 4 block .. 4 block + 3 of one image, 24 random bits each.
FR_HD Words pixel_bits(uint64_t seed, int64_t index, int64_t stream, int64_t block) {
  const uint64_t i = static_cast<uint64_t>(index);
  Words words = philox({{static_cast<uint32_t>(block), static_cast<uint32_t>(i),
                         static_cast<uint32_t>(i >> 32), static_cast<uint32_t>(stream)}},
                       seed);
  for (uint32_t& word : words.w) word >>= 8;
  return words;
}

// Two independent standard normal numbers from two words (Box and Muller, 1958).
FR_HD void normal_pair(uint32_t first, uint32_t second, float* pair) {
  const float radius = sqrtf(-2 * logf((first + 0.5f) * 0x1p-24f));
  const float angle = second * 0x1p-23f * 3.14159265f;
  pair[0] = radius * cosf(angle);
  pair[1] = radius * sinf(angle);
}

FR_HD void normal_pair(uint32_t first, uint32_t second, double* pair) {
  const double radius = sqrt(-2 * log((first + 0.5) * 0x1p-24));
  const double angle = second * 0x1p-23 * 3.141592653589793;
  pair[0] = radius * cos(angle);
  pair[1] = radius * sin(angle);
}

template <typename T>
constexpr int64_t scratch_size(const StartArgs<T>&) {
  return 1;
}

template <typename T, typename Team>
FR_HD void compute_row(const StartArgs<T>& a, int64_t row, Team team, T* scratch) {
  const int64_t n = a.n, index = a.index[row], restart = a.restart[row];
  T* x = a.x + row * n;
  const T* x0 = a.x0 + row * n;
  const T eps = a.eps[row];
  const uint64_t seed = a.seed;
  const Box<T> box = a.box;
  if (a.norm == Norm::kLinf) {
    team.each((n + 3) / 4, [=](int64_t block) FR_LAMBDA {
      const Words bits = pixel_bits(seed, index, restart, block);
      for (int64_t j = 4 * block; j < 4 * block + 4 && j < n; ++j)
        x[j] = box.clamp(x0[j] + eps * (static_cast<T>(bits.w[j % 4]) * T(0x1p-23) - 1));
    });
    return;
  }
  constexpr int64_t kNormalStream = int64_t{1} << 31;  // apart from that of the uniform numbers
  team.each((n + 3) / 4, [=](int64_t block) FR_LAMBDA {
    const Words bits = pixel_bits(seed, index, restart + kNormalStream, block);
    T normal[4];
    normal_pair(bits.w[0], bits.w[1], normal);
    normal_pair(bits.w[2], bits.w[3], normal + 2);
    for (int64_t j = 4 * block; j < 4 * block + 4 && j < n; ++j) x[j] = normal[j % 4];
  });
  team.sync();
  team.template sums<128, T>(
      1, n, [=](int64_t, int64_t j, T acc) FR_LAMBDA { return fused(x[j], x[j], acc); },
      [=](int64_t, T sum) FR_LAMBDA { scratch[0] = sum; });
  team.sync();
  // A uniform point of the ball: a uniform direction at radius eps U^(1/n).
  const double share = (pixel_bits(seed, index, restart, 0).w[0] + 0.5) * 0x1p-24;
  const T scale = eps * (static_cast<T>(pow(share, 1.0 / n)) / root(scratch[0]));
  team.each(n, [=](int64_t j) FR_LAMBDA { x[j] = box.clamp(x0[j] + scale * x[j]); });
}

}  // namespace fastrobust
