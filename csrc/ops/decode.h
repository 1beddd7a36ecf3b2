// decode: the nearest target vector of each row of output units.
#pragma once

#include "rows/elementary.h"
#include "rows/team.h"

namespace fastrobust {

template <typename T>
struct DecodeArgs {
  using Scalar = T;
  const T* u;        // [N, d] output units
  const T* vectors;  // [K, d] target vectors Y
  int64_t* index;    // [N] out: argmax_k u.Y_k - |Y_k|^2 / 2, ties to the lowest
  T* distance;       // [N] out: |u - Y_index|^2
  int64_t N, K, d;
};

constexpr int kCodeLanes = 16;  // partial sums of a sum over units

// The one formula that decides: u.Y - |Y|^2 / 2 = sum over j of (u_j - Y_j / 2) Y_j.
template <typename T, typename Team>
FR_HD void code_scores(const T* u, const T* vectors, int64_t K, int64_t d, Team team, T* score) {
  team.template sums<kCodeLanes, T>(
      K, d,
      [=](int64_t k, int64_t j, T acc) FR_LAMBDA {
        const T y = vectors[k * d + j];
        return fused(fused(T(-0.5), y, u[j]), y, acc);
      },
      [=](int64_t k, T sum) FR_LAMBDA { score[k] = sum; });
}

template <typename T>
int64_t scratch_size(const DecodeArgs<T>& a) {
  return a.K;
}

template <typename T, typename Team>
FR_HD void compute_row(const DecodeArgs<T>& a, int64_t row, Team team, T* score) {
  const T* u = a.u + row * a.d;
  code_scores(u, a.vectors, a.K, a.d, team, score);
  team.sync();
  const int64_t best =
      team.template top3<T>(a.K, [=](int64_t k) FR_LAMBDA { return score[k]; }).index[0];
  const T* winner = a.vectors + best * a.d;
  if (team.leader()) a.index[row] = best;
  team.template sums<kCodeLanes, T>(
      1, a.d,
      [=](int64_t, int64_t j, T acc) FR_LAMBDA {
        const T gap = u[j] - winner[j];
        return fused(gap, gap, acc);
      },
      [&](int64_t, T sum) FR_LAMBDA { a.distance[row] = sum; });
}

}  // namespace fastrobust
