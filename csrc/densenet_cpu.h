// The CPU engine for one instruction set: included by densenet_cpu.cpp once in the namespace of
// each, whose Lanes it uses.
//
// A thread takes a group of images through the whole network, so that what it works on stays in its
// cache. Neither batch nor threads nor the width of the vectors change a bit.

#include "register_tiles.h"
#ifdef FR_MATRIX
#include "matrix_tiles.h"
#endif

// Vectors of pixels that are computed together.
template <typename Unit>
constexpr int kStrip = Lanes::kMatrix && !std::is_same_v<Unit, float> ? 4 : Lanes::kVecs;

// Calls task.template strip<vectors>(p) for all positions from p on.
template <int kVecs, typename Task>
FR_INLINE void sweep(int64_t span, const Task& task, int64_t p = 0) {
  constexpr int64_t kWide = kVecs * Lanes::kWidth;
  for (; p + kWide <= span; p += kWide) task.template strip<kVecs>(p);
  if constexpr (kVecs > 1) sweep<kVecs / 2>(span, task, p);
}

// In front of a matrix unit: zeros where its last tile reads beyond the inputs of a strip.
template <int kVecs, typename Unit>
FR_INLINE void fill_tile(Unit* strip, int64_t units) {
  if constexpr (Lanes::kMatrix && !std::is_same_v<Unit, float>)
    for (int64_t i = units; i < ConvWeights::planes(units, 1); ++i)
      for (int v = 0; v < kVecs; ++v)
        Lanes::store(strip + (i * kVecs + v) * Lanes::kWidth, Lanes::splat(Unit(0)));
}

template <typename Unit>
struct SqueezeForward {
  const DenseBlock& block;
  const DenseLayer& layer;
  const float *weights, *x;
  float* strip_memory;
  Unit* hidden;  // [width, stride], at position 0
  int64_t column;
  uint8_t* mask;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    constexpr int64_t kWide = kVecs * Lanes::kWidth;
    Unit* in = reinterpret_cast<Unit*>(strip_memory);
    normalise<kVecs, Unit>(x + p, block.plane.packed, layer.channels, weights + layer.norm.scale,
                           weights + layer.norm.shift,
                           [&](int64_t unit, int v, auto value) FR_LAMBDA {
                             Lanes::store(in + unit * kWide + v * Lanes::kWidth, value);
                           });
    fill_tile<kVecs>(in, layer.squeeze.units);
    const Activate<Unit> done{hidden + p, column, weights + layer.bias, block, mask, p};
    const Unit* w = reinterpret_cast<const Unit*>(weights + layer.squeeze.forward);
    convolve<1, kVecs>(in, kWide, 0, 0, layer.squeeze.units, w, layer.squeeze.out, done);
  }
};

// Norm and ReLU of a layer without a bottleneck, 0 between pixels.
template <typename Unit>
struct NormaliseForward {
  const DenseBlock& block;
  const DenseLayer& layer;
  const float *weights, *x;
  Unit* out;  // [channels, stride], at position 0
  int64_t column;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    normalise<kVecs, Unit>(
        x + p, block.plane.packed, layer.channels, weights + layer.norm.scale,
        weights + layer.norm.shift, [&](int64_t unit, int v, auto value) FR_LAMBDA {
          const int64_t at = p + v * Lanes::kWidth;
          const auto pixels = Lanes::keep(value, bits_at(block.valid.data(), at));
          place(out + unit * block.plane.stride + at, column, pixels, block, at);
        });
  }
};

// Any convolution of planes whose result is stored as it is.
template <int kTaps, typename Unit>
struct Convolve {
  const ConvWeights& conv;
  const float* weights;
  const Unit* in;
  int64_t in_stride, pitch, column;
  float* out;
  int64_t out_stride;
  bool back = false;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    const Unit* w = reinterpret_cast<const Unit*>(weights + (back ? conv.backward : conv.forward));
    const int64_t count = back ? conv.in : conv.out;
    convolve<kTaps, kVecs>(in + p, in_stride, pitch, column, back ? conv.back_units : conv.units, w,
                           count, Store{out + p, out_stride, count});
  }
};

// A layer's gradient, from what it has appended to what it has read.
template <typename Unit>
struct LayerBackward {
  const DenseBlock& block;
  const DenseLayer& layer;
  const float *weights, *x;
  const Unit* appended;  // gradient of what the layer has appended, at position 0
  int64_t column;
  float* gradient;  // [channels, stride], at position 0
  float* strip_memory;
  const uint8_t* mask;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    constexpr int64_t kWide = kVecs * Lanes::kWidth;
    const Plane& plane = block.plane;
    const ConvWeights &grow = layer.grow, &squeeze = layer.squeeze;
    const Unit* w = reinterpret_cast<const Unit*>(weights + grow.backward);
    if (squeeze.out == 0)
      return convolve<9, kVecs>(appended + p, plane.stride, plane.pitch, column, grow.back_units, w,
                                grow.in, accumulate<true>(p));
    Unit* inner = reinterpret_cast<Unit*>(strip_memory);
    convolve<9, kVecs>(appended + p, plane.stride, plane.pitch, column, grow.back_units, w, grow.in,
                       Gate<Unit>{inner, kWide, mask, p, plane.span});
    fill_tile<kVecs>(inner, squeeze.back_units);
    w = reinterpret_cast<const Unit*>(weights + squeeze.backward);
    convolve<1, kVecs>(inner, kWide, 0, 0, squeeze.back_units, w, squeeze.in, accumulate<false>(p));
  }

  template <bool kPixels>
  FR_INLINE Accumulate<kPixels> accumulate(int64_t p) const {
    const Plane& plane = block.plane;
    const float *scale = weights + layer.norm.scale, *shift = weights + layer.norm.shift;
    return {gradient + p,   plane.stride,       x + p, plane.packed, scale, shift,
            layer.channels, block.valid.data(), p};
  }
};

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
    const Columns<float> input(plan_, first.plane, plan_.shape.in_channels, s_.input);
    lay_out(x, input);
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
    const Columns<float> gradient = stem_gradient(plane);
    float* input = s_.input + plane.lead;
    sweep<kStrip<float>>(
        plane.reach(count_),
        Convolve<9, float>{plan_.stem, weights_, gradient.middle, plane.stride, plane.pitch,
                           gradient.column, input, plane.stride, true});
    const int64_t C = plan_.shape.in_channels, H = plane.height, W = plane.width;
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t y = 0; y < H; ++y)
          std::memcpy(grad + ((i * C + c) * H + y) * W, input + c * plane.stride + plane.at(i, y),
                      W * sizeof(float));
  }

 private:
  // Planes for a 3x3 convolution, cleared.
  template <typename Number>
  struct Columns {
    Number* middle;  // position 0 of the first
    int64_t column;  // from a copy of them to the next, 1 where there is but one

    Columns(Number* middle, int64_t column) : middle(middle), column(column) {}
    Columns(const DenseNetPlan& plan, const Plane& plane, int64_t units, Number* memory) {
      constexpr bool kTiles = Lanes::kMatrix && !std::is_same_v<Number, float>;
      const int64_t copies = plan.tiles() ? 3 * units : units;
      const int64_t planes = kTiles ? ConvWeights::planes(units, 9) : copies;
      std::memset(memory, 0, planes * plane.stride * sizeof(Number));
      column = plan.tiles() ? units * plane.stride : 1;
      middle = memory + plane.lead + (plan.tiles() ? column : 0);
    }
  };

  // A row of floats, where a copy is moved without what moves out of the image.
  static void place_row(float* to, int64_t column, const float* from, int64_t width) {
    std::memcpy(to, from, width * sizeof(float));
    if (column == 1) return;
    std::memcpy(to - column + 1, from, (width - 1) * sizeof(float));
    std::memcpy(to + column, from + 1, (width - 1) * sizeof(float));
  }

  void lay_out(const float* x, const Columns<float>& input) {
    const Plane& plane = plan_.blocks[0].plane;
    const int64_t C = plan_.shape.in_channels, H = plane.height, W = plane.width;
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t y = 0; y < H; ++y)
          place_row(input.middle + c * plane.stride + plane.at(i, y), input.column,
                    x + ((i * C + c) * H + y) * W, W);
  }

  Columns<float> stem_gradient(const Plane& plane) {
    if (!plan_.tiles()) return {s_.gradient + plane.lead, 1};
    const int64_t channels = plan_.shape.channels[0];
    const Columns<float> copies(plan_, plane, channels, s_.hidden);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < count_; ++i)
        for (int64_t y = 0; y < plane.height; ++y) {
          const int64_t row = c * plane.stride + plane.at(i, y);
          place_row(copies.middle + row, copies.column, s_.gradient + plane.lead + row,
                    plane.width);
        }
    return copies;
  }

  uint8_t* mask(const DenseLayer& layer) { return reinterpret_cast<uint8_t*>(state_ + layer.mask); }

  Columns<Unit> hidden(const Plane& plane, int64_t units) {
    return {plan_, plane, units, reinterpret_cast<Unit*>(s_.hidden)};
  }

  // All layers of a block: each reads the planes before its own.
  void append(const DenseBlock& block, bool save) {
    const Plane& plane = block.plane;
    const int64_t reach = plane.reach(count_);
    float* x = state_ + block.x;
    Columns<Unit> inner = hidden(plane, block.layers.back().grow.units);
    for (const DenseLayer& layer : block.layers) {
      if (layer.squeeze.out > 0) {
        sweep<kStrip<Unit>>(reach,
                            SqueezeForward<Unit>{block, layer, weights_, x, s_.strip, inner.middle,
                                                 inner.column, save ? mask(layer) : nullptr});
      } else {
        inner = hidden(plane, layer.grow.units);
        sweep<kStrip<Unit>>(
            reach, NormaliseForward<Unit>{block, layer, weights_, x, inner.middle, inner.column});
      }
      sweep<kStrip<Unit>>(
          reach, Convolve<9, Unit>{layer.grow, weights_, inner.middle, plane.stride, plane.pitch,
                                   inner.column, x + layer.channels * plane.packed, plane.packed});
    }
  }

  // Back through the layers of a block.
  void descend(const DenseBlock& block) {
    const Plane& plane = block.plane;
    const int64_t growth = plan_.shape.growth, reach = plane.reach(count_);
    float* gradient = s_.gradient + plane.lead;
    if constexpr (std::is_same_v<Unit, float>) {
      for (int64_t i = block.layers.size() - 1; i >= 0; --i)
        descend(block, block.layers[i], {gradient + block.layers[i].channels * plane.stride, 1});
    } else {
      const Columns<Unit> appended = hidden(plane, (growth + 1) / 2);
      for (int64_t i = block.layers.size() - 1; i >= 0; --i) {
        const DenseLayer& layer = block.layers[i];
        for (int64_t c = 0; c < growth; c += 2)
          for (int64_t p = 0; p < reach; p += Lanes::kWidth) {
            const float* from = gradient + (layer.channels + c) * plane.stride + p;
            const V high = c + 1 < growth ? Lanes::load(from + plane.stride) : Lanes::splat(0.f);
            place(appended.middle + c / 2 * plane.stride + p, appended.column,
                  Lanes::pair(Lanes::load(from), high), block, p);
          }
        descend(block, layer, appended);
      }
    }
  }

  void descend(const DenseBlock& block, const DenseLayer& layer, const Columns<Unit>& appended) {
    sweep<kStrip<Unit>>(block.plane.reach(count_),
                        LayerBackward<Unit>{block, layer, weights_, state_ + block.x,
                                            appended.middle, appended.column,
                                            s_.gradient + block.plane.lead, s_.strip, mask(layer)});
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

  // to = row where x scale + shift > 0, else 0; the row's own zeros follow its pixels.
  static FR_INLINE void gate_row(const float* row, const float* x, float scale, float shift,
                                 float* to, int64_t width) {
    const V s = Lanes::splat(scale), b = Lanes::splat(shift);
    for (int64_t j = 0; j < width; j += Lanes::kWidth) {
      const unsigned bits = Lanes::positive(Lanes::madd(b, Lanes::load(x + j), s));
      Lanes::store(to + j, Lanes::keep(Lanes::load(row + j), bits));
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
