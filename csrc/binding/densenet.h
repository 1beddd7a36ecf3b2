// The DenseNet engines as Python sees them: a plan for each, and one call that goes forward or
// backward.
#pragma once

#include <atomic>

#include "binding/checks.h"
#include "densenet/cuda/passes.h"
#include "densenet/layout.h"
#ifdef FR_CUDA
#include "densenet/cuda/engine.h"
#endif

namespace fastrobust {

inline DenseNetShape densenet_shape(std::vector<int64_t> layers, std::vector<int64_t> channels,
                                    int64_t growth, bool bottleneck, int64_t in_channels,
                                    int64_t outputs, int64_t height, int64_t width) {
  require<py::value_error>(!layers.empty() && layers.size() == channels.size(),
                           "layers and channels must hold a number for each block, got ",
                           layers.size(), " and ", channels.size());
  const int64_t smallest = int64_t{1} << (layers.size() - 1);
  require<py::value_error>(height >= smallest && width >= smallest, "images must be at least ",
                           smallest, " x ", smallest, " for ", layers.size(), " blocks, got ",
                           height, " x ", width);
  for (int64_t number : {growth, in_channels, outputs})
    require<py::value_error>(number >= 1, "sizes must be >= 1, got ", number);
  return {layers, channels, growth, bottleneck, in_channels, outputs, height, width};
}

inline DenseNetPlan densenet_plan(const DenseNetShape& shape, int64_t images, bool half) {
  require<py::value_error>(images >= 1, "images must be >= 1, got ", images);
  require<std::runtime_error>(
      !half || has_bf16(), "bfloat16 must have a CPU with AVX512-BF16, got ", name(active_isa()));
  const bool matrix = active_isa() == Isa::kAmx;
  return DenseNetPlan(shape, images,
                      half ? (matrix ? Operands::kTiles : Operands::kPairs) : Operands::kFloats);
}

inline DenseNetCudaPlan densenet_cuda_plan(const DenseNetShape& shape, const string& precision) {
  const auto wish = pick<Precision>("precision", precision, {"fp32", "tf32", "bf16"});
  const DenseNetCudaPlan plan(shape, wish);
  require<py::value_error>(densenet_fits(plan), "growth and image width must fit the GPU's shared ",
                           "memory, got ", shape.growth, " and ", shape.width, " in ", precision);
  return plan;
}

inline void require_memory(const Tensor& t, const char* name, at::ScalarType type, int64_t least) {
  require<py::type_error>(t.scalar_type() == type, name, " must be ", dtype_name(type), ", got ",
                          dtype(t));
  require<py::value_error>(t.is_contiguous() && t.numel() >= least, name, " must hold ", least,
                           " numbers without gaps, got ", t.sizes());
}

// Images and outputs of either direction; all that is given must be where `images` are.
struct Ends {
  const float* x = nullptr;
  float* z = nullptr;
  const float* dz = nullptr;
  float* grad = nullptr;
  int64_t N;
  Tensor images;

  Ends(const DenseNetShape& shape, const optional<Tensor>& x_, const optional<Tensor>& z_,
       const optional<Tensor>& dz_, const optional<Tensor>& grad_)
      : images(x_ ? *x_ : *grad_) {
    N = images.size(0);
    for (const optional<Tensor>& t : {x_, grad_}) {
      if (!t) continue;
      require_shape(*t, "images", {N, shape.in_channels, shape.height, shape.width});
      require_memory(*t, "images", at::kFloat, 0);
      require_on(*t, "images", images, "images");
    }
    for (const optional<Tensor>& t : {z_, dz_}) {
      if (!t) continue;
      require_shape(*t, "outputs", {N, shape.outputs});
      require_memory(*t, "outputs", at::kFloat, 0);
      require_on(*t, "outputs", images, "images");
    }
    if (z_) x = in<float>(*x_), z = out<float>(*z_);
    if (dz_) dz = in<float>(*dz_), grad = out<float>(*grad_);
  }
};

// Every thread takes the next group of images as soon as it has time: groups take unequal times
// where the machine has other work.
inline void densenet(const DenseNetPlan& plan, Tensor weights, optional<Tensor> x,
                     optional<Tensor> z, optional<Tensor> state, optional<Tensor> dz,
                     optional<Tensor> grad, Tensor scratch) {
  const Ends ends(plan.shape, x, z, dz, grad);
  require<std::runtime_error>(ends.images.is_cpu(), "images must be on the CPU, got ",
                              ends.images.device());
  const int64_t groups = (ends.N + plan.images - 1) / plan.images;
  const int64_t share = Scratch::size(plan) + (state ? 0 : plan.state_size);
  require_memory(weights, "weights", at::kFloat, plan.weights_size);
  if (state) require_memory(*state, "state", at::kFloat, groups * plan.state_size);
  require_memory(scratch, "scratch", at::kFloat, share);
  const int64_t workers =
      std::min<int64_t>({at::get_num_threads(), groups, scratch.numel() / share});
  const DenseNetArgs args{
      &plan,   in<float>(weights), ends.x, ends.z, state ? out<float>(*state) : nullptr,
      ends.dz, ends.grad,          ends.N};
  std::atomic<int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t group; (group = next++) < groups;)
        densenet_cpu(args, group, group + 1, out<float>(scratch) + worker * share);
  });
}

// Folded weights (float32, one after the other) as a GPU reads them, on the CPU.
inline void densenet_cuda_pack(const DenseNetCudaPlan& plan, Tensor folded, Tensor weights) {
  require_memory(folded, "folded", at::kFloat, plan.folded_size);
  require_memory(weights, "weights", at::kByte, plan.weights_size);
  require<std::runtime_error>(folded.is_cpu() && weights.is_cpu(),
                              "weights must be packed on the CPU, got ", folded.device(), " and ",
                              weights.device());
  plan.pack(in<float>(folded), out<unsigned char>(weights));
}

#ifdef FR_CUDA
inline void densenet_on_gpu(const DenseNetCudaPlan& plan, Tensor weights, optional<Tensor> x,
                            optional<Tensor> z, Tensor state, bool keep, optional<Tensor> dz,
                            optional<Tensor> grad, Tensor scratch) {
  const Ends ends(plan.shape, x, z, dz, grad);
  require<std::runtime_error>(ends.images.is_cuda(), "images must be on a GPU, got ",
                              ends.images.device());
  require_memory(weights, "weights", at::kByte, plan.weights_size);
  require_memory(state, "state", at::kByte, ends.N * plan.state_size);
  require_memory(scratch, "scratch", at::kByte, ends.N * plan.scratch_size);
  for (const Tensor& t : {weights, state, scratch}) require_on(t, "memory", ends.images, "images");
  const c10::cuda::CUDAGuard guard(ends.images.device());
  const cudaError_t status =
      densenet_cuda({&plan, in<unsigned char>(weights), ends.x, ends.z, out<unsigned char>(state),
                     out<unsigned char>(scratch), keep, ends.dz, ends.grad, ends.N},
                    c10::cuda::getCurrentCUDAStream());
  require<std::runtime_error>(status == cudaSuccess, "the DenseNet engine did not start on ",
                              ends.images.device(), ": ", cudaGetErrorString(status));
}
#endif

inline void bind_densenet(py::module_& m) {
  using Free = py::call_guard<py::gil_scoped_release>;
  py::class_<DenseNetShape>(m, "DenseNetShape", "of a network and its images")
      .def(py::init(&densenet_shape));
  py::class_<DenseNetPlan>(m, "DenseNetPlan", "where everything lies on a CPU, in float32 numbers")
      .def(py::init(&densenet_plan))
      .def_property_readonly("tiles", &DenseNetPlan::tiles)
      .def_readonly("weights_size", &DenseNetPlan::weights_size)
      .def_readonly("state_size", &DenseNetPlan::state_size)
      .def_property_readonly("scratch_size", &Scratch::size);
  py::class_<DenseNetCudaPlan>(m, "DenseNetCudaPlan", "where everything lies on a GPU, in bytes")
      .def(py::init(&densenet_cuda_plan))
      .def_readonly("weights_size", &DenseNetCudaPlan::weights_size)
      .def_readonly("state_size", &DenseNetCudaPlan::state_size)
      .def_readonly("scratch_size", &DenseNetCudaPlan::scratch_size)
      .def_property_readonly("forward_bytes", &DenseNetCudaPlan::forward_bytes)
      .def_property_readonly("backward_bytes", &DenseNetCudaPlan::backward_bytes);
  m.def("densenet", &densenet, Free(), "forward or backward of a whole DenseNet");
  m.def("densenet_cuda_pack", &densenet_cuda_pack, Free(), "weights as a GPU reads them");
#ifdef FR_CUDA
  m.def("densenet_cuda", &densenet_on_gpu, Free(), "forward or backward on a GPU");
#endif
}

}  // namespace fastrobust
