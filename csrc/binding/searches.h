// One step of the attacks that keep a state of their own for each row, as Python sees it.
#pragma once

#include "binding/checks.h"
#include "ops/cw_step.h"
#include "ops/deepfool.h"
#include "ops/lbfgs.h"
#include "ops/square.h"

namespace fastrobust {

inline void cw_step_(Tensor x, Tensor w, Tensor m, Tensor v, Tensor origin, Tensor best,
                     Tensor best_l2, Tensor best_f, Tensor loss, Tensor c, Tensor lower,
                     Tensor upper, Tensor t, Tensor search, Tensor found, Tensor won, Tensor x0,
                     Tensor grad, Tensor f, Tensor hit, Tensor first_success, int64_t iterations,
                     int64_t searches, int64_t patience, double learning_rate, double abort_from,
                     double lo, double hi) {
  require_floating(x, "x");
  require<py::value_error>(x.dim() >= 1, "x must have shape (N, ...), got a single number");
  require<py::value_error>(lo < hi && std::isfinite(lo) && std::isfinite(hi),
                           "lo must be < hi and both finite, got ", lo, " and ", hi);
  require<py::value_error>(iterations >= 1 && searches >= 1 && patience >= 0,
                           "iterations and searches must be >= 1 and patience >= 0, got ",
                           iterations, ", ", searches, " and ", patience);
  const int64_t N = x.size(0);
  const at::IntArrayRef row(&N, 1);
  const auto written = [&](at::IntArrayRef shape, at::ScalarType type, auto... named) {
    (output(*named.first, named.second, type, shape, x), ...);
  };
  using Named = std::pair<const Tensor*, const char*>;
  written(x.sizes(), x.scalar_type(), Named(&x, "x"), Named(&w, "w"), Named(&m, "m"),
          Named(&v, "v"), Named(&origin, "origin"), Named(&best, "best"));
  written(row, x.scalar_type(), Named(&best_l2, "best_l2"), Named(&best_f, "best_f"),
          Named(&loss, "loss"));
  written(row, at::kDouble, Named(&c, "const"), Named(&lower, "lower"), Named(&upper, "upper"));
  written(row, at::kLong, Named(&t, "t"), Named(&search, "search"));
  written(row, at::kBool, Named(&found, "found"), Named(&won, "won"));
  require_shape(x0, "x0", x.sizes());
  require_shape(grad, "grad", x.sizes());
  require_shape(f, "f", row);
  x0 = input(x0, "x0", x, "x");
  grad = input(grad, "grad", x, "x");
  f = input(f, "f", x, "x");
  hit = input_flags(hit, "hit", N, x);
  first_success = input_flags(first_success, "first_success", N, x);
  if (x.numel() == 0) return;
  for (auto [tensor, name] : {std::pair{&x0, "x0"}, {&grad, "grad"}, {&w, "w"}, {&best, "best"}})
    require_apart(x, "x", *tensor, name);
  const int64_t n = x.numel() / N;
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    // clang-format off: one line for images, one for what is known of them, one for the search
    const CwStepArgs<T> args{
        out<T>(x), out<T>(w), out<T>(m), out<T>(v), out<T>(origin), in<T>(x0), in<T>(grad),
        in<T>(f), in<bool>(hit), in<bool>(first_success), out<T>(best), out<T>(best_l2), out<T>(best_f),
        out<T>(loss), out<double>(c), out<double>(lower), out<double>(upper), out<int64_t>(t),
        out<int64_t>(search), out<bool>(found), out<bool>(won), iterations, searches, patience,
        static_cast<T>(learning_rate), static_cast<T>(abort_from), make_box<T>(lo, hi), N, n};
    // clang-format on
    run(args, x, 16 * n);
  });
}

inline void square_(Tensor x, Tensor held, Tensor held_loss, Tensor won, Tensor iteration,
                    Tensor x0, Tensor loss, Tensor hit, Tensor valid, Tensor live, Tensor sides,
                    Number eps, uint64_t seed, Tensor index, Tensor run_number, optional<double> lo,
                    optional<double> hi) {
  require_floating(x, "x");
  require<py::value_error>(x.dim() >= 2, "x must have shape (N, ...), got ", x.sizes());
  // Vectors are lines of pixels; whatever stands before the lines are channels.
  const int64_t N = x.size(0), W = x.size(-1), H = x.dim() > 2 ? x.size(-2) : 1;
  prepare_in_place(x, "x");
  output(held, "held", x.scalar_type(), x.sizes(), x);
  output(held_loss, "held_loss", at::kDouble, {N}, x);
  output(won, "won", at::kBool, {N}, x);
  output(iteration, "iteration", at::kLong, {N}, x);
  require_shape(x0, "x0", x.sizes());
  x0 = input(x0, "x0", x, "x");
  require_shape(loss, "loss", {N});
  loss = input(loss, "loss", held_loss, "held_loss");
  hit = input_flags(hit, "hit", N, x);
  valid = input_flags(valid, "valid", N, x);
  live = input_flags(live, "live", N, x);
  require_matrix(sides, "sides", "(Q, 2)");
  const int64_t Q = sides.size(0);
  require_shape(sides, "sides", {Q, 2});
  sides = input_int64(sides.flatten(), "sides", 2 * Q, x, "x");
  index = input_int64(index, "index", N, x, "x");
  run_number = input_int64(run_number, "run", N, x, "x");
  for (int64_t i = 0; x.is_cpu() && i < N; ++i) {
    if (!in<bool>(live)[i]) continue;
    const int64_t asked = in<int64_t>(iteration)[i], before = in<int64_t>(run_number)[i];
    require<py::value_error>(asked >= 0 && asked < Q, "iteration must lie in [0, ", Q,
                             ") in live rows, got ", asked, " in row ", i);
    require<py::value_error>(before >= 0 && before < INT64_C(0x7fffffff) / Q,
                             "run must lie in [0, 2^31 / ", Q, "), got ", before, " in row ", i);
    const int64_t* side = in<int64_t>(sides) + 2 * asked;
    require<py::value_error>(side[0] >= 1 && side[0] <= H && side[1] >= 1 && side[1] <= W,
                             "sides must lie within 1x1 and ", H, "x", W, ", got ", side[0], "x",
                             side[1], " in row ", asked);
  }
  if (x.numel() == 0) return;
  require_apart(x, "x", held, "held");
  require_apart(x, "x", x0, "x0");
  require_apart(held, "held", x0, "x0");
  const int64_t n = x.numel() / N;
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    run(SquareArgs<T>{out<T>(x),
                      out<T>(held),
                      out<double>(held_loss),
                      out<bool>(won),
                      out<int64_t>(iteration),
                      in<T>(x0),
                      in<double>(loss),
                      in<bool>(hit),
                      in<bool>(valid),
                      in<bool>(live),
                      in<int64_t>(sides),
                      in<int64_t>(index),
                      in<int64_t>(run_number),
                      per_row<T>(eps, "eps", x),
                      make_box<T>(lo, hi),
                      seed,
                      N,
                      n,
                      n / (H * W),
                      H,
                      W,
                      Q},
        x, 2 * n);
  });
}

inline void deepfool_(Tensor x, Tensor r, Tensor x0, Tensor slopes, Tensor gaps,
                      optional<Tensor> live, Tensor moved, optional<double> lo,
                      optional<double> hi) {
  require_floating(x, "x");
  require<py::value_error>(x.dim() >= 1, "x must have shape (N, ...), got a single number");
  require_matrix(gaps, "gaps", "(N, K)", 0);
  require_shape(r, "r", x.sizes());
  require_shape(x0, "x0", x.sizes());
  const int64_t N = x.size(0), K = gaps.size(1);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.insert(shape.begin() + 1, K);
  require_shape(slopes, "slopes", shape);
  require_shape(gaps, "gaps", {N, K});
  prepare_in_place(x, "x");
  prepare_in_place(r, "r");
  input(r, "r", x, "x");
  x0 = input(x0, "x0", x, "x");
  slopes = input(slopes, "slopes", x, "x");
  gaps = input(gaps, "gaps", x, "x");
  if (live) {
    require<py::type_error>(live->scalar_type() == at::kBool, "live must be bool, got ",
                            dtype(*live));
    require_shape(*live, "live", {N});
    require_on(*live, "live", x, "x");
    live = live->contiguous();
  }
  if (N == 0) return;
  require_apart(x, "x", r, "r");
  require_apart(x, "x", x0, "x0");
  require_apart(x, "x", slopes, "slopes");
  require_apart(r, "r", x0, "x0");
  require_apart(r, "r", slopes, "slopes");
  const int64_t n = x.numel() / N;
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    run(DeepFoolArgs<T>{out<T>(x), out<T>(r), in<T>(x0), in<T>(slopes), in<T>(gaps),
                        live ? in<bool>(*live) : nullptr, out<bool>(moved), make_box<T>(lo, hi), N,
                        K, n},
        x, (K + 2) * (n + 1));
  });
}

inline void lbfgs_direction(Tensor s, Tensor y, Tensor rho, Tensor pairs, Tensor x, Tensor grad,
                            Tensor direction, Tensor slope, double scale, optional<double> lo,
                            optional<double> hi) {
  require_floating(x, "x");
  require<py::value_error>(x.dim() >= 1, "x must have shape (N, ...), got a single number");
  require_shape(grad, "grad", x.sizes());
  require<py::value_error>(s.dim() == x.dim() + 1 && s.size(1) > 0,
                           "s must have shape (N, m, ...) with m > 0, got ", s.sizes());
  std::vector<int64_t> history(x.sizes().begin(), x.sizes().end());
  history.insert(history.begin() + 1, s.size(1));
  require_shape(s, "s", history);
  require_shape(y, "y", history);
  x = x.contiguous();
  grad = input(grad, "grad", x, "x");
  s = input(s, "s", x, "x");
  y = input(y, "y", x, "x");
  const int64_t N = x.size(0), m = s.size(1);
  require_shape(rho, "rho", {N, m});
  rho = input(rho, "rho", x, "x");
  pairs = input_int64(pairs, "pairs", N, x, "x");
  for (int64_t i = 0; pairs.is_cpu() && i < N; ++i)
    require<py::value_error>(in<int64_t>(pairs)[i] >= 0, "pairs must be >= 0 in every row, got ",
                             in<int64_t>(pairs)[i]);
  require<py::value_error>(scale > 0, "scale must be > 0, got ", scale);
  if (x.numel() == 0) return;
  const int64_t n = x.numel() / N;
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    run(LbfgsArgs<T>{in<T>(s), in<T>(y), in<T>(rho), in<int64_t>(pairs), in<T>(x), in<T>(grad),
                     out<T>(direction), out<T>(slope), static_cast<T>(scale), make_box<T>(lo, hi),
                     N, m, n},
        x, 4 * m * n);
  });
}

}  // namespace fastrobust
