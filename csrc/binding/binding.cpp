// The operations as Python sees them: checks, arguments of the kernels, the table.
//
// Python allocates every output, so that lifetimes and fake kernels are plain to see.
#include <torch/version.h>

#include "binding/checks.h"
#include "binding/densenet.h"
#include "binding/searches.h"
#include "ops/conv_spectrum.h"
#include "ops/decode.h"
#include "ops/head.h"
#include "ops/random_start.h"
#include "ops/step.h"

namespace fastrobust {
namespace {

void decode(Tensor u, Tensor vectors, Tensor index, Tensor distance) {
  require_floating(u, "u");
  require_matrix(u, "u", "(N, d)");
  require_matrix(vectors, "vectors", "(K, d)");
  const int64_t N = u.size(0), d = u.size(1), K = vectors.size(0);
  require<py::value_error>(K > 0 && vectors.size(1) == d, "vectors must have shape (K, ", d,
                           ") with K > 0 to fit u, got ", vectors.sizes());
  u = u.contiguous();
  vectors = input(vectors, "vectors", u, "u");
  if (N == 0) return;
  with_type(u, [&](auto zero) {
    using T = decltype(zero);
    run(DecodeArgs<T>{in<T>(u), in<T>(vectors), out<int64_t>(index), out<T>(distance), N, K, d}, u,
        K * d);
  });
}

void head(Tensor z, optional<Tensor> vectors, Tensor y, const string& activation,
          const string& loss, Tensor value, Tensor dz, Tensor decision, Tensor margin) {
  const auto kind = pick<Activation>("activation", activation, {"tanh", "softmax", "none"});
  const auto wish =
      pick<Loss>("loss", loss, {"ce", "mse", "margin", "dlr", "cw", "distance", "squared"});
  require_floating(z, "z");
  require_matrix(z, "z", "(N, d)");
  const int64_t N = z.size(0), d = z.size(1);
  int64_t K = d;
  z = z.contiguous();
  if (vectors) {
    require_matrix(*vectors, "vectors", "(K, d)");
    K = vectors->size(0);
    require<py::value_error>(K > 0 && vectors->size(1) == d, "vectors must have shape (K, ", d,
                             ") with K > 0 to fit z, got ", vectors->sizes());
    require<py::value_error>(kind != Activation::kSoftmax || K == d,
                             "vectors must be square under softmax, got ", vectors->sizes());
    vectors = input(*vectors, "vectors", z, "z");
  }
  require<py::value_error>(wish != Loss::kDlr || K >= 3, "dlr must have at least 3 classes, got ",
                           K);
  y = input_int64(y, "y", N, z, "z");
  for (int64_t i = 0; y.is_cpu() && i < N; ++i) {
    const int64_t label = in<int64_t>(y)[i];
    require<py::value_error>(label >= 0 && label < K, "y must lie in [0, ", K, "), got ", label);
  }
  if (N == 0) return;
  with_type(z, [&](auto zero) {
    using T = decltype(zero);
    run(HeadArgs<T>{in<T>(z), vectors ? in<T>(*vectors) : nullptr, in<int64_t>(y), out<T>(value),
                    out<T>(dz), out<int64_t>(decision), out<T>(margin), kind, wish, N, K, d},
        z, vectors ? 2 * K * d : 8 * d);
  });
}

void tanh_mse(Tensor z, Tensor target, optional<Tensor> loss, optional<Tensor> grad,
              optional<Tensor> dz, optional<Tensor> dtarget) {
  require_floating(z, "z");
  require_matrix(z, "z", "(N, d)");
  require_shape(target, "target", z.sizes());
  const int64_t N = z.size(0), d = z.size(1);
  z = z.contiguous();
  target = input(target, "target", z, "z");
  if (grad) grad = input(*grad, "grad", z, "z");
  if (N == 0) return;
  with_type(z, [&](auto zero) {
    using T = decltype(zero);
    TanhMseArgs<T> args{in<T>(z), in<T>(target), nullptr, nullptr, nullptr, nullptr, N, d};
    if (loss) args.loss = out<T>(*loss);
    if (grad) args.grad = in<T>(*grad), args.dz = out<T>(*dz), args.dtarget = out<T>(*dtarget);
    run(args, z, 8 * d);
  });
}

void step_(Tensor x, Tensor x0, Tensor grad, optional<Tensor> momentum, const string& kind,
           Number eps, Number step_size, double decay, optional<double> lo, optional<double> hi) {
  const auto wish = pick<StepKind>("kind", kind, {"sign", "momentum", "l2"});
  require_floating(x, "x");
  require<py::value_error>(x.dim() >= 1, "x must have shape (N, ...), got a single number");
  prepare_in_place(x, "x");
  require_shape(x0, "x0", x.sizes());
  require_shape(grad, "grad", x.sizes());
  x0 = input(x0, "x0", x, "x");
  grad = input(grad, "grad", x, "x");
  require<py::value_error>(momentum.has_value() == (wish == StepKind::kMomentum),
                           "momentum must be given for kind momentum and for no other, got ",
                           momentum ? "one" : "none", " for kind ", kind);
  if (momentum) {
    require_shape(*momentum, "momentum", x.sizes());
    prepare_in_place(*momentum, "momentum");
    input(*momentum, "momentum", x, "x");
  }
  if (x.numel() == 0) return;
  require_apart(x, "x", x0, "x0");
  require_apart(x, "x", grad, "grad");
  if (momentum) {
    require_apart(*momentum, "momentum", x, "x");
    require_apart(*momentum, "momentum", grad, "grad");
  }
  const int64_t N = x.size(0), n = x.numel() / N;
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    run(StepArgs<T>{out<T>(x), in<T>(x0), in<T>(grad), momentum ? out<T>(*momentum) : nullptr,
                    per_row<T>(eps, "eps", x), per_row<T>(step_size, "step_size", x),
                    static_cast<T>(decay), make_box<T>(lo, hi), wish, N, n},
        x, n);
  });
}

void random_start_(Tensor x, Tensor x0, const string& norm, Number eps, uint64_t seed, Tensor index,
                   std::variant<int64_t, Tensor> restart, optional<double> lo,
                   optional<double> hi) {
  const auto wish = pick<Norm>("norm", norm, {"linf", "l2"});
  require_floating(x, "x");
  require<py::value_error>(x.dim() >= 1, "x must have shape (N, ...), got a single number");
  prepare_in_place(x, "x");
  require_shape(x0, "x0", x.sizes());
  x0 = input(x0, "x0", x, "x");
  const int64_t N = x.size(0);
  index = input_int64(index, "index", N, x, "x");
  PerRow<int64_t> restarts{nullptr, 0};
  if (Tensor* rows = std::get_if<Tensor>(&restart)) {
    *rows = input_int64(*rows, "restart", N, x, "x");
    restarts.rows = in<int64_t>(*rows);
  } else {
    restarts.value = std::get<int64_t>(restart);
    require<py::value_error>(restarts.value >= 0 && restarts.value < INT64_C(0x80000000),
                             "restart must lie in [0, 2^31), got ", restarts.value);
  }
  if (x.numel() == 0) return;
  require_apart(x, "x", x0, "x0");
  const int64_t n = x.numel() / N;
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    run(StartArgs<T>{out<T>(x), in<T>(x0), in<int64_t>(index), restarts, per_row<T>(eps, "eps", x),
                     make_box<T>(lo, hi), seed, wish, N, n},
        x, 8 * n);
  });
}

// jobs (N, 6): see SpectrumJob; on the CPU, wherever the rest is.
void conv_spectrum(Tensor gram, Tensor waves, Tensor jobs, Tensor values) {
  require_floating(gram, "gram");
  gram = gram.contiguous();
  waves = input(waves, "waves", gram, "gram");
  input(values, "values", gram, "gram");
  require<py::value_error>(jobs.is_cpu() && jobs.dim() == 2 && jobs.size(1) == 6,
                           "jobs must have shape (N, 6) on the CPU, got ", jobs.sizes(), " on ",
                           jobs.device());
  const int64_t N = jobs.size(0);
  jobs = input_int64(jobs.flatten(), "jobs", 6 * N, jobs, "jobs");
  if (N == 0) return;
  const SpectrumJob* job = reinterpret_cast<const SpectrumJob*>(in<int64_t>(jobs));
  const int64_t most = gram.is_cpu() ? kWidestSpectrum : kWidestSpectrumOfBlock;
  int64_t widest = 0, work = 0;
  for (int64_t i = 0; i < N; ++i) {
    const auto [r, lags, first, wave, count, value] = job[i];
    require<py::value_error>(r >= 1 && r <= most, "a spectrum must have 1 to ", most,
                             " channels on ", gram.device(), ", got ", r);
    // The last of each that is read or written.
    const bool inside = lags >= 1 && count >= kFrequencies && first >= 0 && wave >= 0 &&
                        value >= 0 && first + lags * r * (r + 1) <= gram.numel() &&
                        wave + (2 * lags - 1) * count + kFrequencies <= waves.numel() &&
                        value + (r - 1) * count + kFrequencies <= values.numel();
    require<py::value_error>(inside, "jobs must lie inside gram, waves and values, got row ", i);
    widest = std::max(widest, r);
    work += kFrequencies * (4 * r * r * r + 2 * lags * r * r);
  }
  jobs = jobs.to(gram.device());
  job = reinterpret_cast<const SpectrumJob*>(in<int64_t>(jobs));
  with_type(gram, [&](auto zero) {
    using T = decltype(zero);
    run(ConvSpectrumArgs<T>{in<T>(gram), in<T>(waves), job, out<T>(values), N, widest}, gram,
        work / N);
  });
}

// What this file was built with; build.py adds the rest.
py::dict facts() {
  py::dict d;
  d["sources"] = FR_SOURCES;
  d["torch"] = TORCH_VERSION;
  d["architectures"] = FR_ARCHITECTURES;
  d["compiler"] = "g++ " __VERSION__;
  d["cpu"] = name(active_isa());
  d["bf16"] = has_bf16();
#ifdef FR_CUDA
  d["cuda"] = c10::str(CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10);
#else
  d["cuda"] = py::none();
#endif
#ifdef _OPENMP
  d["openmp"] = true;
#else
  d["openmp"] = false;
#endif
  return d;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using Free = py::call_guard<py::gil_scoped_release>;
  // clang-format off: a table
  m.def("decode",          &decode,          Free(), "nearest target vector of each row");
  m.def("head",            &head,            Free(), "loss, gradient, decision and margin of each row");
  m.def("tanh_mse",        &tanh_mse,        Free(), "mean squared error of tanh(z), or its gradients");
  m.def("step_",           &step_,           Free(), "one attack update in place");
  m.def("cw_step_",        &cw_step_,        Free(), "one iteration of Carlini and Wagner's L2 attack");
  m.def("deepfool_",       &deepfool_,       Free(), "one step of DeepFool in place");
  m.def("lbfgs_direction", &lbfgs_direction, Free(), "a quasi-Newton direction inside a box");
  m.def("random_start_",   &random_start_,   Free(), "a random point of each eps-ball, in place");
  m.def("square_",         &square_,         Free(), "one step of a random search, in place");
  m.def("conv_spectrum",   &conv_spectrum,   Free(), "singular values of convolutions at all frequencies");
  m.def("facts",           &facts,                   "what this extension was built with");
  // clang-format on
  bind_densenet(m);
}

}  // namespace fastrobust
