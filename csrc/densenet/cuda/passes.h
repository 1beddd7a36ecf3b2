// The kernels of a forward and of a backward in their order: a DenseNet's way through the GPU,
// written for anything that can run a task (a launch, or a loop in a test).
#pragma once

#include "densenet/cuda/ends.h"
#include "densenet/cuda/layers.h"
#include "densenet/cuda/layers_backward.h"
#include "densenet/cuda/transitions.h"

namespace fastrobust {

constexpr int64_t kMostShared = 160 * 1024;  // bytes of a block, on compute capability 8.0 and on
constexpr int64_t kGoodShared = 74 * 1024;   // three blocks of capability 9.0, two of 8.0

template <typename Task>
int64_t shared_bytes(const Task& task) {
  Arena arena{nullptr};
  task.lay(arena);
  return arena.used;
}

// Weights stay in shared memory where that leaves room for other blocks, else in the cache; inputs
// come in as large chunks as there is room for. False where even small ones have none.
template <typename Task>
bool share(Task& task) {
  task.sharing = {};
  if (shared_bytes(task) <= kGoodShared) return true;
  task.sharing.resident = false;
  while (shared_bytes(task) > kMostShared && task.sharing.chunk > kStep)
    task.sharing.chunk -= kStep;
  return shared_bytes(task) <= kMostShared;
}

template <Precision P>
class DenseNetWalk {
 public:
  using S = Operand<P>;

  explicit DenseNetWalk(const DenseNetCudaArgs& args) : a_(args), plan_(*args.plan) {}

  // run(task) for each kernel; stops and returns false as soon as it does.
  template <typename Run>
  bool forward(const Run& run) const {
    const CudaBlock& first = plan_.blocks[0];
    if (!run(Stem<S>{{{}, product<kFull, 9>(plan_.stem)}, a_.x, x(first)})) return false;
    for (size_t b = 0; b < plan_.blocks.size(); ++b) {
      const CudaBlock& block = plan_.blocks[b];
      for (const CudaLayer& layer : block.layers)
        if (!append(block, layer, run)) return false;
      if (block.transition.out == 0) break;
      if (!run(Transition<S>{{{}, product<kFull, 1>(block.transition)},
                             seen(block),
                             floats(block.scale),
                             floats(block.shift),
                             x(plan_.blocks[b + 1])}))
        return false;
    }
    const CudaBlock& last = plan_.blocks.back();
    return run(Classify<S>{{},
                           seen(last),
                           last.channels,
                           static_cast<int>(plan_.shape.outputs),
                           floats(last.scale),
                           floats(last.shift),
                           floats(plan_.linear),
                           floats(plan_.linear_bias),
                           a_.z});
  }

  template <typename Run>
  bool backward(const Run& run) const {
    const CudaBlock& last = plan_.blocks.back();
    if (!run(ClassifyBack<S>{{},
                             seen(last),
                             last.channels,
                             static_cast<int>(plan_.shape.outputs),
                             floats(last.scale),
                             floats(last.shift),
                             floats(plan_.linear),
                             a_.dz,
                             gradient(last)}))
      return false;
    for (size_t b = plan_.blocks.size(); b-- > 0;) {
      const CudaBlock& block = plan_.blocks[b];
      if (block.transition.out > 0) {
        const CudaBlock& next = plan_.blocks[b + 1];
        if (!run(TransitionBack<S>{{{}, product<kFull, 1>(block.transition, true)},
                                   {gradient(next), next.stride, frame(next)},
                                   seen(block),
                                   floats(block.scale),
                                   floats(block.shift),
                                   gradient(block)}))
          return false;
      }
      for (size_t i = block.layers.size(); i-- > 0;)
        if (!descend(block, block.layers[i], run)) return false;
    }
    const CudaBlock& first = plan_.blocks[0];
    return run(StemBack{{{}, product<kFull, 9>(plan_.stem, true)},
                        {gradient(first), first.stride, frame(first)},
                        a_.grad});
  }

 private:
  template <typename Run>
  bool append(const CudaBlock& block, const CudaLayer& layer, const Run& run) const {
    const Product<P, 9> grow = product<P, 9>(layer.grow);
    S* to = x(block).at + layer.channels;
    const float *scale = floats(layer.scale), *shift = floats(layer.shift);
    if (layer.squeeze.out == 0)
      return run(Grow<P, true>{{{}, grow}, seen(block), scale, shift, to, block.stride});
    S* hidden = reinterpret_cast<S*>(a_.scratch + a_.N * plan_.hidden);
    const int stride = plan_.hidden_stride;
    return run(Squeeze<P>{{{}, product<P, 1>(layer.squeeze)},
                          seen(block),
                          scale,
                          shift,
                          floats(layer.bias),
                          hidden,
                          stride,
                          a_.keep ? a_.state + a_.N * layer.mask : nullptr,
                          plan_.mask_bytes()}) &&
           run(Grow<P, false>{
               {{}, grow}, {hidden, stride, frame(block)}, nullptr, nullptr, to, block.stride});
  }

  template <typename Run>
  bool descend(const CudaBlock& block, const CudaLayer& layer, const Run& run) const {
    const Product<P, 9> grow = product<P, 9>(layer.grow, true);
    const Accumulate<S> end{seen(block), floats(layer.scale), floats(layer.shift), gradient(block)};
    if (layer.squeeze.out == 0) return run(PlainBack<P>{{{}, grow}, end});
    return run(BottleneckBack<P>{{},
                                 grow,
                                 product<P, 1>(layer.squeeze, true),
                                 a_.state + a_.N * layer.mask,
                                 plan_.mask_bytes(),
                                 end});
  }

  const float* floats(int64_t at) const { return reinterpret_cast<const float*>(a_.weights + at); }
  Frame frame(const CudaBlock& block) const {
    return {a_.N * block.pixels(), block.height, block.width};
  }
  Channels<S> x(const CudaBlock& block) const {
    return {reinterpret_cast<S*>(a_.state + a_.N * block.x), block.stride, frame(block)};
  }
  Channels<const S> seen(const CudaBlock& block) const {
    return {x(block).at, block.stride, frame(block)};
  }
  float* gradient(const CudaBlock& block) const {
    return reinterpret_cast<float*>(a_.scratch + a_.N * block.gradient);
  }
  template <Precision Q, int kTaps>
  Product<Q, kTaps> product(const PackedConv& c, bool back = false) const {
    const unsigned char* at = a_.weights + (back ? c.backward : c.forward);
    return {reinterpret_cast<const Operand<Q>*>(at), back ? c.out : c.in, back ? c.in : c.out};
  }

  const DenseNetCudaArgs& a_;
  const DenseNetCudaPlan& plan_;
};

// walk(DenseNetWalk<P>) for the precision of the plan.
template <typename Walk>
auto at_precision(const DenseNetCudaArgs& args, const Walk& walk) {
  if (args.plan->precision == Precision::kBfloat16)
    return walk(DenseNetWalk<Precision::kBfloat16>(args));
  if (args.plan->precision == Precision::kTf32) return walk(DenseNetWalk<Precision::kTf32>(args));
  return walk(DenseNetWalk<Precision::kFloat32>(args));
}

// Whether every kernel finds room in the shared memory of a block. It depends on the growth and on
// the width of the images.
inline bool densenet_fits(const DenseNetCudaPlan& plan) {
  DenseNetCudaArgs args{};
  static unsigned char nowhere;  // sizes do not depend on addresses
  args.weights = args.state = args.scratch = &nowhere;
  args.plan = &plan;
  const auto check = [](auto task) { return share(task); };
  return at_precision(
      args, [&](const auto& walk) { return walk.forward(check) && walk.backward(check); });
}

}  // namespace fastrobust
