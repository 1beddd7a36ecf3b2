// Torch at the edge of every kernel: checks of what a user hands in, raw pointers, dispatch over
// device, threads and element type. Only files named binding see torch.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "rows/cpu.h"
#ifdef FR_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "rows/cuda.h"
#endif

namespace fastrobust {
namespace py = pybind11;
using at::Tensor;
using std::optional;
using std::string;
using Number = std::variant<double, Tensor>;  // one for all rows, or one per row

// ---- checks: the wish, then the fact, in the user's names

template <typename Error, typename... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) throw Error(c10::str(parts...));
}

// The name that Python gives to a dtype.
inline string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    case at::kLong:
      return "int64";
    case at::kInt:
      return "int32";
    case at::kBool:
      return "bool";
    default:
      return c10::toString(type);
  }
}

inline string dtype(const Tensor& t) { return dtype_name(t.scalar_type()); }

inline void require_device(const Tensor& t, const char* name) {
#ifdef FR_CUDA
  require<std::runtime_error>(t.is_cpu() || t.is_cuda(), name, " must be on the CPU or a GPU, got ",
                              t.device());
#else
  require<std::runtime_error>(t.is_cpu(), name, " must be on the CPU, as this build of fastrobust ",
                              "has no CUDA kernels, got ", t.device());
#endif
}

inline void require_floating(const Tensor& t, const char* name) {
  require<py::type_error>(t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble, name,
                          " must be float32 or float64, got ", dtype(t));
  require_device(t, name);
}

inline void require_shape(const Tensor& t, const char* name, at::IntArrayRef shape) {
  require<py::value_error>(t.sizes() == shape, name, " must have shape ", shape, ", got ",
                           t.sizes());
}

inline void require_on(const Tensor& t, const char* name, const Tensor& like,
                       const char* like_name) {
  require<std::runtime_error>(t.device() == like.device(), name, " must be on ", like.device(),
                              " like ", like_name, ", got ", t.device());
}

// A contiguous view or copy of t, which must have the dtype and device of `like`.
inline Tensor input(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  require<py::type_error>(t.scalar_type() == like.scalar_type(), name, " must be ", dtype(like),
                          " like ", like_name, ", got ", dtype(t));
  require_on(t, name, like, like_name);
  return t.contiguous();
}

inline Tensor input_int64(const Tensor& t, const char* name, int64_t rows, const Tensor& like,
                          const char* like_name) {
  require<py::type_error>(t.scalar_type() == at::kLong, name, " must be int64, got ", dtype(t));
  require_shape(t, name, {rows});
  require_on(t, name, like, like_name);
  return t.contiguous();
}

inline Tensor input_flags(const Tensor& t, const char* name, int64_t rows, const Tensor& x) {
  require<py::type_error>(t.scalar_type() == at::kBool, name, " must be bool, got ", dtype(t));
  require_shape(t, name, {rows});
  require_on(t, name, x, "x");
  return t.contiguous();
}

inline void require_matrix(const Tensor& t, const char* name, const char* shape,
                           int64_t least = 1) {
  require<py::value_error>(t.dim() == 2 && t.size(1) >= least, name, " must have shape ", shape,
                           ", got ", t.sizes());
}

// Of an argument that is written; tells autograd that saved copies of it are stale.
inline void prepare_in_place(const Tensor& t, const char* name) {
  require<py::value_error>(t.is_contiguous(), name,
                           " must be contiguous, as it is written in place, got strides ",
                           t.strides());
  t.unsafeGetTensorImpl()->bump_version();
}

// Of an argument that is written, and must have this dtype and shape and the device of x.
inline void output(const Tensor& t, const char* name, at::ScalarType type, at::IntArrayRef shape,
                   const Tensor& x) {
  require<py::type_error>(t.scalar_type() == type, name, " must be ", dtype_name(type), ", got ",
                          dtype(t));
  require_shape(t, name, shape);
  require_on(t, name, x, "x");
  prepare_in_place(t, name);
}

inline void require_apart(const Tensor& t, const char* name, const Tensor& other,
                          const char* other_name) {
  const char* a = static_cast<const char*>(t.const_data_ptr());
  const char* b = static_cast<const char*>(other.const_data_ptr());
  require<py::value_error>(a + t.nbytes() <= b || b + other.nbytes() <= a, name,
                           " must not share memory with ", other_name);
}

template <typename E>
E pick(const char* name, const string& word, std::initializer_list<const char*> words) {
  int place = 0;
  string listed;
  for (const char* candidate : words) {
    if (word == candidate) return static_cast<E>(place);
    listed += (place++ ? " | " : "") + string(candidate);
  }
  throw py::value_error(c10::str(name, " must be ", listed, ", got ", word));
}

// ---- from torch to raw pointers

template <typename T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <typename T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

// A checked number >= 0 per row. `Number` keeps the tensor that the kernel will read alive.
template <typename T>
PerRow<T> per_row(Number& number, const char* name, const Tensor& x) {
  if (const double* value = std::get_if<double>(&number)) {
    require<py::value_error>(*value >= 0, name, " must be >= 0, got ", *value);
    return {nullptr, static_cast<T>(*value)};
  }
  Tensor& rows = std::get<Tensor>(number);
  rows = input(rows, name, x, "x");
  require_shape(rows, name, {x.size(0)});
  const T* data = in<T>(rows);
  for (int64_t i = 0; rows.is_cpu() && i < x.size(0); ++i)
    require<py::value_error>(data[i] >= 0, name, " must be >= 0 in every row, got ", data[i]);
  return {data, T(0)};
}

template <typename T>
Box<T> make_box(optional<double> lo, optional<double> hi) {
  const Box<T> box{static_cast<T>(lo.value_or(-kInfinity<double>)),
                   static_cast<T>(hi.value_or(kInfinity<double>))};
  require<py::value_error>(box.lo <= box.hi, "lo must be <= hi, got ", box.lo, " and ", box.hi);
  return box;
}

// Computes all rows where the tensors are: on the current stream, or on torch's threads.
template <typename Args>
void run(const Args& args, const Tensor& on, int64_t operations_per_row) {
#ifdef FR_CUDA
  if (on.is_cuda()) {
    const c10::cuda::CUDAGuard guard(on.device());
    const cudaError_t status = cuda_rows(args, c10::cuda::getCurrentCUDAStream());
    require<std::runtime_error>(status == cudaSuccess, "a kernel did not start on ", on.device(),
                                ": ", cudaGetErrorString(status));
    return;
  }
#endif
  constexpr int64_t kWorthAThread = 1 << 15;
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / operations_per_row);
  at::parallel_for(0, args.N, grain,
                   [&](int64_t begin, int64_t end) { cpu_rows(args, begin, end); });
}

// Calls f with a value of the tensor's element type.
template <typename F>
void with_type(const Tensor& t, F f) {
  t.scalar_type() == at::kFloat ? f(float{}) : f(double{});
}

}  // namespace fastrobust
