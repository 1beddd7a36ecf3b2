// head: activation, loss, its gradient, decision and margin of each row, in one pass.
// tanh_mse: the training loss of codeword networks, with both gradients.
#pragma once

#include "ops/decode.h"

namespace fastrobust {

enum class Activation { kTanh, kSoftmax, kNone };
enum class Loss { kCe, kMse, kMargin, kDlr, kCw, kDistance, kSquared };

template <typename T>
struct HeadArgs {
  using Scalar = T;
  const T* z;         // [N, d] pre-activations
  const T* vectors;   // [K, d] target vectors Y, or null: one-hot, K = d
  const int64_t* y;   // [N] class of each row; loss and dz are NaN where it is not in [0, K)
  T* loss;            // [N] out
  T* dz;              // [N, d] out: d loss / d z
  int64_t* decision;  // [N] out: argmax of the class scores, ties to the lowest
  T* margin;          // [N] out: score of y minus the best other; +inf where K = 1
  Activation activation;
  Loss kind;
  int64_t N, K, d;
};

template <typename T>
int64_t scratch_size(const HeadArgs<T>& a) {
  return a.d + a.K + 3;
}

// Class scores are the units themselves, so that a gradient on scores is one on units.
template <typename T>
FR_HD bool scores_are_units(const HeadArgs<T>& a) {
  return a.activation == Activation::kSoftmax || !a.vectors;
}

// exp(scale (s_k - s_max)) in place of each score but that of y, which becomes 0; returns their
// sum. Leaving y out keeps p_y - 1 = -rest / total exact where p_y rounds to 1.
template <typename T, typename Team>
FR_HD T rival_weights(T* score, int64_t K, int64_t y, T max, T scale, Team team, T* sum) {
  team.each(K, [=](int64_t k) FR_LAMBDA {
    score[k] = k == y ? T(0) : exp_negative(scale * (score[k] - max));
  });
  team.sync();
  team.template sums<kCodeLanes, T>(
      1, K, [=](int64_t, int64_t k, T acc) FR_LAMBDA { return acc + score[k]; },
      [=](int64_t, T total) FR_LAMBDA { *sum = total; });
  team.sync();
  return *sum;
}

// Loss on class scores s = scale * score; leaves scale * d loss / d s in score.
template <typename T, typename Team>
FR_HD T score_loss(const HeadArgs<T>& a, T* score, int64_t y, const Top3<T>& top, T scale,
                   Team team, T* sum) {
  const int64_t K = a.K;
  const T own = score[y], max = top.value[0];
  const int64_t rival = top.index[0] == y ? 1 : 0;  // place of the best other class
  team.sync();
  if (a.kind == Loss::kCe) {
    const T own_weight = exp_negative(scale * (own - max));
    const T rest = rival_weights(score, K, y, max, scale, team, sum);
    const T share = scale / (rest + own_weight);
    team.each(K, [=](int64_t k) FR_LAMBDA { score[k] = share * (k == y ? -rest : score[k]); });
    return scale * (max - own) + log1plus(rest + (own_weight - 1));
  }
  const T gap = scale * (top.value[rival] - own);
  const T spread = scale * (top.value[0] - top.value[2]) + T(1e-12);
  T loss = gap, slope = scale, spread_slope = 0;
  if (a.kind == Loss::kDlr) {
    loss = gap / spread;
    slope = scale / spread;
    spread_slope = -loss * slope;
  } else if (a.kind == Loss::kCw) {
    loss = gap <= 0 ? T(0) : gap;
    slope = gap <= 0 ? T(0) : scale;
  }
  team.each(K, [=](int64_t k) FR_LAMBDA { score[k] = 0; });
  team.sync();
  if (team.leader() && K > 1) {
    score[top.index[rival]] += slope;
    score[y] -= slope;
    if (a.kind == Loss::kDlr) {
      score[top.index[0]] += spread_slope;
      score[top.index[2]] -= spread_slope;
    }
  }
  return loss;
}

// dz on entry holds the slope of the activation where it is tanh.
template <typename T, typename Team>
FR_HD void chain_scores(const HeadArgs<T>& a, const T* weight, T* du, T* dz, Team team) {
  const int64_t d = a.d, K = a.K;
  if (!scores_are_units(a)) {
    team.each(d, [=](int64_t j) FR_LAMBDA { du[j] = 0; });
    for (int64_t k = 0; k < K; ++k) {
      const T w = weight[k];
      if (w == 0) continue;
      const T* vector = a.vectors + k * d;
      team.each(d, [=](int64_t j) FR_LAMBDA { du[j] = fused(w, vector[j], du[j]); });
    }
    weight = du;
  }
  if (a.activation == Activation::kTanh)
    team.each(d, [=](int64_t j) FR_LAMBDA { dz[j] *= weight[j]; });
  else
    team.each(d, [=](int64_t j) FR_LAMBDA { dz[j] = weight[j]; });
}

// Mean squared error of the units u to target(0..d-1); leaves its gradient on u in u.
template <typename T, typename Team, typename Target>
FR_HD T unit_mse(T* u, int64_t d, Target target, Team team, T* sum) {
  const T slope = T(2) / d;
  team.template sums<kCodeLanes, T>(
      1, d,
      [=](int64_t, int64_t j, T acc) FR_LAMBDA {
        const T gap = u[j] - target(j);
        u[j] = slope * gap;
        return fused(gap, gap, acc);
      },
      [=](int64_t, T total) FR_LAMBDA { *sum = total; });
  team.sync();
  return *sum / d;
}

// How much farther the units u are from target(y, .) than from target(rival, .), as a difference of
// distances or of their squares; leaves its gradient on u in u. The difference of the squares is
// affine in u and summed as such; a distance of zero, which has no gradient, is guarded.
template <typename T, typename Team, typename Target>
FR_HD T unit_distance(T* u, int64_t d, int64_t y, int64_t rival, bool squared, Target target,
                      Team team, T* sum) {
  team.template sums<kCodeLanes, T>(
      3, d,
      [=](int64_t r, int64_t j, T acc) FR_LAMBDA {
        const T own = target(y, j), other = target(rival, j);
        const T a = r < 2 ? u[j] - (r ? other : own) : other - own;
        return fused(a, r < 2 ? a : 2 * u[j] - own - other, acc);
      },
      [=](int64_t r, T total) FR_LAMBDA { sum[r] = total; });
  team.sync();
  constexpr T kTiny = sizeof(T) == 4 ? T(1e-12) : T(1e-24);
  const T far = root(sum[0] < kTiny ? kTiny : sum[0]), near = root(sum[1] < kTiny ? kTiny : sum[1]);
  const T gap = sum[2];
  team.each(d, [=](int64_t j) FR_LAMBDA {
    const T own = target(y, j), other = target(rival, j);
    u[j] = squared ? 2 * (other - own) : (u[j] - own) / far - (u[j] - other) / near;
  });
  return squared ? gap : gap / (far + near);
}

// Softmax of z (its scores) into u and dz.
template <typename T, typename Team>
FR_HD void softmax_units(T* score, int64_t K, T max, T* u, T* dz, Team team, T* sum) {
  const T inverse = 1 / rival_weights(score, K, int64_t{-1}, max, T(1), team, sum);
  team.each(K, [=](int64_t k) FR_LAMBDA { u[k] = dz[k] = inverse * score[k]; });
  team.sync();
}

// Gradient through the softmax: dz_j = p_j (du_j - sum_i p_i du_i), with p in dz on entry.
template <typename T, typename Team>
FR_HD void chain_softmax(const T* du, int64_t K, T* dz, Team team, T* sum) {
  team.template sums<kCodeLanes, T>(
      1, K, [=](int64_t, int64_t k, T acc) FR_LAMBDA { return fused(dz[k], du[k], acc); },
      [=](int64_t, T total) FR_LAMBDA { *sum = total; });
  team.sync();
  const T mean = *sum;
  team.each(K, [=](int64_t k) FR_LAMBDA { dz[k] *= du[k] - mean; });
}

// No other class to be nearer to, and nothing to gain.
template <typename T, typename Team>
FR_HD T nearest_of_one(T* u, int64_t d, Team team) {
  team.each(d, [=](int64_t j) FR_LAMBDA { u[j] = 0; });
  return -kInfinity<T>;
}

template <typename T, typename Team>
FR_HD void compute_row(const HeadArgs<T>& a, int64_t row, Team team, T* scratch) {
  const int64_t d = a.d, K = a.K, y = a.y[row];
  const T* z = a.z + row * d;
  T *dz = a.dz + row * d, *u = scratch, *score = scratch + d, *sum = scratch + d + K;
  const bool tanh = a.activation == Activation::kTanh,
             softmax = a.activation == Activation::kSoftmax;

  if (tanh) {
    team.each(d, [=](int64_t j) FR_LAMBDA {
      const Tanh<T> t = tanh_slope(z[j]);
      u[j] = t.value;
      dz[j] = t.slope;
    });
  } else {
    team.each(d, [=](int64_t j) FR_LAMBDA { u[j] = z[j]; });
  }
  team.sync();
  if (scores_are_units(a)) {
    const T offset = tanh ? T(0.5) : T(0);  // |Y_k|^2 / 2
    team.each(K, [=](int64_t k) FR_LAMBDA { score[k] = u[k] - offset; });
  } else {
    code_scores(u, a.vectors, K, d, team, score);
  }
  team.sync();
  const Top3<T> top = team.template top3<T>(K, [=](int64_t k) FR_LAMBDA { return score[k]; });
  if (team.leader()) a.decision[row] = top.index[0];
  if (y < 0 || y >= K) {
    team.each(d, [=](int64_t j) FR_LAMBDA { dz[j] = kNan<T>; });
    if (team.leader()) a.loss[row] = a.margin[row] = kNan<T>;
    return;
  }
  const T scale = tanh ? T(12) / d : T(1);  // 1 / T: scores of a tanh head have temperature d / 12
  const T margin = scale * (score[y] - top.value[top.index[0] == y ? 1 : 0]);

  T loss;
  if (a.kind < Loss::kDistance && a.kind != Loss::kMse) {
    loss = score_loss(a, score, y, top, scale, team, sum);
    team.sync();
    chain_scores(a, score, u, dz, team);
  } else {
    team.sync();
    if (softmax) softmax_units(score, K, top.value[0], u, dz, team, sum);
    const T* vectors = a.vectors;
    const auto target = [=](int64_t k, int64_t j)
                            FR_LAMBDA { return vectors ? vectors[k * d + j] : T(j == k); };
    if (a.kind == Loss::kMse)
      loss = unit_mse(u, d, [=](int64_t j) FR_LAMBDA { return target(y, j); }, team, sum);
    else if (K > 1)
      loss = unit_distance(u, d, y, top.index[top.index[0] == y ? 1 : 0], a.kind == Loss::kSquared,
                           target, team, sum);
    else
      loss = nearest_of_one(u, d, team);
    team.sync();
    if (softmax)
      chain_softmax(u, K, dz, team, sum);
    else if (tanh)
      team.each(d, [=](int64_t j) FR_LAMBDA { dz[j] *= u[j]; });
    else
      team.each(d, [=](int64_t j) FR_LAMBDA { dz[j] = u[j]; });
  }
  if (team.leader()) {
    a.loss[row] = loss;
    a.margin[row] = margin;
  }
}

template <typename T>
struct TanhMseArgs {
  using Scalar = T;
  const T* z;       // [N, d] pre-activations
  const T* target;  // [N, d]
  T* loss;          // [N] out: mean over j of (tanh z_j - target_j)^2; or null, and then
  const T* grad;    // [N] gradient of the loss
  T* dz;            // [N, d] out
  T* dtarget;       // [N, d] out
  int64_t N, d;
};

template <typename T>
constexpr int64_t scratch_size(const TanhMseArgs<T>&) {
  return 1;
}

template <typename T, typename Team>
FR_HD void compute_row(const TanhMseArgs<T>& a, int64_t row, Team team, T*) {
  const int64_t d = a.d;
  const T *z = a.z + row * d, *target = a.target + row * d;
  if (a.loss) {
    team.template sums<kCodeLanes, T>(
        1, d,
        [=](int64_t, int64_t j, T acc) FR_LAMBDA {
          const T gap = tanh_slope(z[j]).value - target[j];
          return fused(gap, gap, acc);
        },
        [&](int64_t, T sum) FR_LAMBDA { a.loss[row] = sum / d; });
    return;
  }
  T *dz = a.dz + row * d, *dtarget = a.dtarget + row * d;
  const T slope = 2 * a.grad[row] / d;
  team.each(d, [=](int64_t j) FR_LAMBDA {
    const Tanh<T> t = tanh_slope(z[j]);
    const T du = slope * (t.value - target[j]);
    dz[j] = du * t.slope;
    dtarget[j] = -du;
  });
}

}  // namespace fastrobust
