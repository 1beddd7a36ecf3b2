// The CPU engine for one instruction set: included by engine.cpp once in the namespace of
// each, whose Lanes it uses.
//
// A thread takes a group of images through the whole network, so that what it works on stays in its
// cache. Neither batch nor threads nor the width of the vectors change a bit.

#include "densenet/cpu/register_tiles.h"
#ifdef FR_MATRIX
#include "densenet/cpu/matrix_tiles.h"
#endif

#include "densenet/cpu/strips.h"

template <typename Unit>
class Pass {
 public:
  // Of `count` images: the last group may have fewer than the plan has room for.
  Pass(const DenseNetArgs& args, float* scratch, float* state, int64_t count)
      : plan_(*args.plan),
        weights_(args.weights),
        s_(plan_, scratch),
        state_(state),
        count_(count) {}

  // Images x [count, C, H, W] to outputs z [count, d]; the state is what `backward` needs.
  void forward(const float* x, float* z, bool save) {
    const DenseBlock& first = plan_.blocks[0];
    const Copies<float> input = lay_out(x);
    sweep<kStrip<float>>(
        first.plane.reach(count_),
        Convolve<9, float>{plan_.stem, weights_, input.middle, first.plane.stride,
                           first.plane.pitch, input.column, state_ + first.x, first.plane.packed});
    for (size_t b = 0; b < plan_.blocks.size(); ++b) {
      const DenseBlock& block = plan_.blocks[b];
      append(block, save);
      if (block.transition.out == 0) break;
      const DenseBlock& next = plan_.blocks[b + 1];
      pool(block, next.plane);
      sweep<kStrip<float>>(
          next.plane.reach(count_),
          Convolve<1, float>{block.transition, weights_, s_.pooled, next.plane.packed, 0, 0,
                             state_ + next.x, next.plane.packed});
    }
    classify(z);
  }

  // Gradient [count, C, H, W] by the images of what has the gradient dz [count, d] by the outputs.
  void backward(const float* dz, float* grad) {
    declassify(dz);
    for (int64_t b = plan_.blocks.size() - 1; b >= 0; --b) {
      const DenseBlock& block = plan_.blocks[b];
      if (block.transition.out > 0) {
        const Plane& next = plan_.blocks[b + 1].plane;
        sweep<kStrip<float>>(next.reach(count_),
                             Convolve<1, float>{block.transition, weights_, s_.gradient + next.lead,
                                                next.stride, 0, 0, s_.pooled, next.packed, true});
        unpool(block, next);
      }
      descend(block);
    }
    const Plane& plane = plan_.blocks[0].plane;
    float *gradient = s_.gradient + plane.lead, *input = s_.input + plane.lead;
    const auto read = [&]() -> Copies<float> {
      if constexpr (Lanes::kMatrix) return spread(gradient, plan_.shape.channels[0], s_.hidden);
      return {gradient, plane.stride, 1, nullptr, nullptr};
    }();
    sweep<kStrip<float>>(plane.reach(count_),
                         Convolve<9, float>{plan_.stem, weights_, read.middle, plane.stride,
                                            plane.pitch, read.column, input, plane.stride, true});
    const int64_t C = plan_.shape.in_channels, H = plane.height, W = plane.width;
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t y = 0; y < H; ++y)
          std::memcpy(grad + ((i * C + c) * H + y) * W, input + c * plane.stride + plane.at(i, y),
                      W * sizeof(float));
  }

 private:
  // Planes for a 3x3 convolution, in which all but the positions of the images is zero.
  template <typename Number>
  Copies<Number> planes(const DenseBlock& block, int64_t units, float* memory) {
    const Plane& plane = block.plane;
    const int64_t copies = Lanes::kMatrix ? 3 * units : units;
    const bool whole_tiles = Lanes::kMatrix && !std::is_same_v<Number, float>;
    const int64_t all = whole_tiles ? ConvWeights::planes(units, 9) : copies;
    const int64_t end = plane.lead + plane.reach(count_);
    for (int64_t i = 0; i < copies; ++i) {
      std::memset(memory + i * plane.stride, 0, plane.lead * sizeof(float));
      std::memset(memory + i * plane.stride + end, 0, (plane.stride - end) * sizeof(float));
    }
    std::memset(memory + copies * plane.stride, 0, (all - copies) * plane.stride * sizeof(float));
    const int64_t column = Lanes::kMatrix ? units * plane.stride : 1;
    Number* middle = reinterpret_cast<Number*>(memory) + plane.lead;
    return {Lanes::kMatrix ? middle + column : middle, plane.stride, column, block.has_left.data(),
            block.has_right.data()};
  }

  // What a 3x3 convolution of floats reads, from planes that have zeros between their pixels.
  Copies<float> spread(const float* from, int64_t channels, float* memory) {
    const Copies<float> to = planes<float>(plan_.blocks[0], channels, memory);
    for (int64_t p = 0; p < plan_.blocks[0].plane.reach(count_); p += Lanes::kWidth) {
      const auto store = to.template at<1>(p);
      for (int64_t c = 0; c < channels; ++c) store(c, {Lanes::load(from + c * to.stride + p)});
    }
    return to;
  }

  Copies<float> lay_out(const float* x) {
    const DenseBlock& block = plan_.blocks[0];
    const Plane& plane = block.plane;
    const int64_t C = plan_.shape.in_channels, H = plane.height, W = plane.width;
    float* input = s_.input + plane.lead + (Lanes::kMatrix ? C * plane.stride : 0);
    std::memset(s_.input, 0, (Lanes::kMatrix ? 3 : 1) * C * plane.stride * sizeof(float));
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t y = 0; y < H; ++y)
          std::memcpy(input + c * plane.stride + plane.at(i, y), x + ((i * C + c) * H + y) * W,
                      W * sizeof(float));
    return Lanes::kMatrix ? spread(input, C, s_.input) : planes<float>(block, C, s_.input);
  }

  uint8_t* mask(const DenseLayer& layer) { return reinterpret_cast<uint8_t*>(state_ + layer.mask); }

  // All layers of a block: each reads the planes before its own.
  void append(const DenseBlock& block, bool save) {
    const Plane& plane = block.plane;
    const int64_t reach = plane.reach(count_);
    float* x = state_ + block.x;
    Copies<Unit> inner = planes<Unit>(block, block.layers.back().grow.units, s_.hidden);
    for (const DenseLayer& layer : block.layers) {
      if (layer.squeeze.out > 0) {
        sweep<kStrip<Unit>>(reach, SqueezeForward<Unit>{block, layer, weights_, x, s_.strip, inner,
                                                        save ? mask(layer) : nullptr});
      } else {
        inner = planes<Unit>(block, layer.grow.units, s_.hidden);
        sweep<kStrip<Unit>>(reach, NormaliseForward<Unit>{block, layer, weights_, x, inner});
      }
      sweep<kStrip<Unit>>(
          reach, Convolve<9, Unit>{layer.grow, weights_, inner.middle, plane.stride, plane.pitch,
                                   inner.column, x + layer.channels * plane.packed, plane.packed});
    }
  }

  // Back through the layers of a block.
  void descend(const DenseBlock& block) {
    const int64_t reach = block.plane.reach(count_);
    float* gradient = s_.gradient + block.plane.lead;
    Copies<Unit> appended{};
    if constexpr (!std::is_same_v<Unit, float>)
      appended = planes<Unit>(block, (plan_.shape.growth + 1) / 2, s_.hidden);
    for (int64_t i = block.layers.size() - 1; i >= 0; --i) {
      const DenseLayer& layer = block.layers[i];
      float* own = gradient + layer.channels * block.plane.stride;
      if constexpr (std::is_same_v<Unit, float>)
        appended.middle = own, appended.column = 1;
      else
        pair(own, reach, appended);
      sweep<kStrip<Unit>>(
          reach, LayerBackward<Unit>{block, layer, weights_, state_ + block.x, appended.middle,
                                     appended.column, gradient, s_.strip, mask(layer)});
    }
  }

  // Two planes of `from` in one.
  void pair(const float* from, int64_t reach, const Copies<Unit>& to) {
    const int64_t growth = plan_.shape.growth;
    for (int64_t p = 0; p < reach; p += Lanes::kWidth, from += Lanes::kWidth)
      for (int64_t c = 0; c < growth; c += 2) {
        const float* low = from + c * to.stride;
        const V none = Lanes::splat(0.f);
        V both[2][1] = {{Lanes::load(low)}, {c + 1 < growth ? Lanes::load(low + to.stride) : none}};
        each_unit<Unit>(c, both, to.template at<1>(p));
      }
  }

  // Norm, ReLU and the mean of 2x2 pixels; the 1x1 convolution, which is linear, comes after it.
  void pool(const DenseBlock& block, const Plane& next) {
    const Plane& plane = block.plane;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    for (int64_t c = 0; c < block.channels; ++c) {
      const float* x = state_ + block.x + c * plane.packed;
      float* out = s_.pooled + c * next.packed;
      for (int64_t i = 0; i < count_; ++i)
        for (int64_t y = 0; y < next.height; ++y) {
          const float* upper = x + plane.at(i, 2 * y);
          for (int64_t j = 0; j < plane.width; j += Lanes::kWidth)
            Lanes::store(s_.row + j, Lanes::add(open(upper + j, scale[c], shift[c]),
                                                open(upper + plane.pitch + j, scale[c], shift[c])));
          float* to = out + next.at(i, y);
          for (int64_t j = 0; j < next.width; ++j)
            to[j] = 0.25f * (s_.row[2 * j] + s_.row[2 * j + 1]);
        }
    }
  }

  // The gradient of what `pool` computes; the norm's scale is in the transition's weights already.
  void unpool(const DenseBlock& block, const Plane& next) {
    const Plane& plane = block.plane;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    float* __restrict row = s_.row;
    std::memset(row, 0, (plane.width + 16) * sizeof(float));
    for (int64_t c = 0; c < block.channels; ++c) {
      const float* x = state_ + block.x + c * plane.packed;
      float* to = s_.gradient + c * plane.stride;
      std::memset(to, 0, plane.stride * sizeof(float));
      for (int64_t i = 0; i < count_; ++i)
        for (int64_t y = 0; y < 2 * next.height; ++y) {
          const float* from = s_.pooled + c * next.packed + next.at(i, y / 2);
          if (y % 2 == 0)
            for (int64_t j = 0; j < next.width; ++j) row[2 * j] = row[2 * j + 1] = 0.25f * from[j];
          gate_row(row, x + plane.at(i, y), scale[c], shift[c], to + plane.lead + plane.at(i, y),
                   plane.width);
        }
    }
  }

  // to = row where x scale + shift > 0, else 0; the row's own zeros follow its pixels, unless
  // another image does.
  static FR_INLINE void gate_row(const float* row, const float* x, float scale, float shift,
                                 float* to, int64_t width) {
    const V s = Lanes::splat(scale), b = Lanes::splat(shift);
    for (int64_t j = 0; j < width; j += Lanes::kWidth) {
      const unsigned bits = Lanes::positive(Lanes::madd(b, Lanes::load(x + j), s));
      const V value = Lanes::keep(Lanes::load(row + j), bits);
      if constexpr (Lanes::kMatrix)
        Lanes::store(to + j, value, width - j < 16 ? (1u << (width - j)) - 1 : 0xffff);
      else
        Lanes::store(to + j, value);
    }
  }

  // Norm, ReLU, mean over the pixels, linear layer: in float32 whatever the operands before.
  void classify(float* z) {
    const DenseBlock& block = plan_.last();
    const Plane& plane = block.plane;
    const int64_t d = plan_.shape.outputs;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    for (int64_t i = 0; i < count_; ++i) {
      float* out = z + i * d;
      std::memcpy(out, weights_ + plan_.linear_bias, d * sizeof(float));
      for (int64_t c = 0; c < block.channels; ++c) {
        const float* x = state_ + block.x + c * plane.packed;
        float sum = 0;
        for (int64_t y = 0; y < plane.height; ++y)
          for (int64_t j = plane.at(i, y); j < plane.at(i, y) + plane.width; ++j) {
            const float value = Lanes::madd(shift[c], x[j], scale[c]);
            sum += value < 0 ? 0 : value;
          }
        const float mean = sum / (plane.height * plane.width);
        const float* w = weights_ + plan_.linear + c * d;
        for (int64_t o = 0; o < d; ++o) out[o] = Lanes::madd(out[o], mean, w[o]);
      }
    }
  }

  void declassify(const float* dz) {
    const DenseBlock& block = plan_.last();
    const Plane& plane = block.plane;
    const int64_t d = plan_.shape.outputs, C = block.channels;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    std::memset(s_.gradient, 0, C * plane.stride * sizeof(float));
    std::memset(s_.row, 0, (plane.width + 16) * sizeof(float));
    for (int64_t i = 0; i < count_; ++i) {
      std::memset(s_.features, 0, C * sizeof(float));
      for (int64_t o = 0; o < d; ++o) {
        const float* w = weights_ + plan_.linear_back + o * C;
        for (int64_t c = 0; c < C; ++c)
          s_.features[c] = Lanes::madd(s_.features[c], dz[i * d + o], w[c]);
      }
      for (int64_t c = 0; c < C; ++c) {
        const float share = s_.features[c] * scale[c] / (plane.height * plane.width);
        const float* x = state_ + block.x + c * plane.packed;
        float* to = s_.gradient + c * plane.stride + plane.lead;
        for (int64_t j = 0; j < plane.width; ++j) s_.row[j] = share;
        for (int64_t y = 0; y < plane.height; ++y)
          gate_row(s_.row, x + plane.at(i, y), scale[c], shift[c], to + plane.at(i, y),
                   plane.width);
      }
    }
  }

  const DenseNetPlan& plan_;
  const float* weights_;
  const Scratch s_;
  float* state_;
  const int64_t count_;
};

// Groups of images [begin, end); forward where z is given, backward where dz is.
template <typename Unit>
void run_groups(const DenseNetArgs& a, int64_t begin, int64_t end, float* scratch) {
  const DenseNetPlan& plan = *a.plan;
  const int64_t size = plan.shape.in_channels * plan.shape.height * plan.shape.width;
  const int64_t d = plan.shape.outputs;
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = group * plan.images;
    const int64_t count = a.N - first < plan.images ? a.N - first : plan.images;
    float* own = a.state ? a.state + group * plan.state_size : scratch + Scratch::size(plan);
    Pass<Unit> pass(a, scratch, own, count);
    if (a.z) pass.forward(a.x + first * size, a.z + first * d, a.state || a.dz);
    if (a.dz) pass.backward(a.dz + first * d, a.grad + first * size);
  }
}

inline void run(const DenseNetArgs& args, int64_t begin, int64_t end, float* scratch) {
#ifdef FR_MATRIX
  const TileRegisters registers;
  run_groups<uint32_t>(args, begin, end, scratch);
#else
  if constexpr (Lanes::kPairs)
    if (args.plan->operands == Operands::kPairs)
      return run_groups<uint32_t>(args, begin, end, scratch);
  run_groups<float>(args, begin, end, scratch);
#endif
}
