// The CPU engine for one instruction set: included by densenet_cpu.cpp once in the namespace of
// each, whose Lanes it uses.
//
// A thread takes a group of images through the whole network, so that what it works on stays in
// its cache. Planes of pixels lie one after the other, a channel each, and a register tile is a
// few vectors of pixels times up to 12 channels: no lane is lost to growth rates that fill no
// vector. Every number is summed in one order (input by input, tap by tap), so that neither batch
// nor threads nor the width of the vectors change a bit.

using V = Lanes::V;
constexpr int kStrip = Lanes::kWidth * Lanes::kVecs;

// acc[o][v] += the sum over inputs and taps of weight times input, for vectors of pixels from x on.
template <int kTaps, int kOut, int kVecs, typename Unit>
FR_INLINE void multiply(V (&acc)[kOut][kVecs], const Unit* x, int64_t stride, int64_t pitch,
                        int64_t units, const Unit* w, int64_t group) {
  for (int64_t i = 0; i < units; ++i, x += stride) {
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t, w += group) {
      const Unit* at = kTaps == 1 ? x : x + (t / 3 - 1) * pitch + (t % 3 - 1);
      decltype(Lanes::load(at)) in[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) in[v] = Lanes::load(at + v * Lanes::kWidth);
#pragma GCC unroll 12
      for (int o = 0; o < kOut; ++o) {
        const auto weight = Lanes::splat(w[o]);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) acc[o][v] = Lanes::madd(acc[o][v], in[v], weight);
      }
    }
  }
}

// One group of outputs, in tiles that fit into the registers; done(o, acc) takes each.
template <int kTaps, int kGroup, int kVecs, typename Unit, typename Done>
FR_INLINE void convolve_group(const Unit* x, int64_t stride, int64_t pitch, int64_t units,
                              const Unit* w, int64_t first, const Done& done) {
  constexpr int kOut =
      kGroup % Lanes::kOut == 0 ? Lanes::kOut : (kGroup < Lanes::kOut ? kGroup : 4);
  for (int o = 0; o < kGroup; o += kOut) {
    V acc[kOut][kVecs];
#pragma GCC unroll 12
    for (int i = 0; i < kOut; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) acc[i][v] = Lanes::splat(0.f);
    if constexpr (Done::kReads) done.template prefetch<kOut, kVecs>(first + o);
    multiply<kTaps>(acc, x, stride, pitch, units, w + o, kGroup);
    done(first + o, acc);
  }
}

// All outputs of a convolution for kVecs vectors of pixels.
template <int kTaps, int kVecs, typename Unit, typename Done>
__attribute__((noinline)) void convolve(const Unit* x, int64_t stride, int64_t pitch, int64_t units,
                                        const Unit* w, int64_t out, const Done& done) {
  int64_t o = 0;
  for (; o + 12 <= ConvWeights::padded(out); o += 12, w += units * kTaps * 12)
    convolve_group<kTaps, 12, kVecs>(x, stride, pitch, units, w, o, done);
  const int64_t rest = ConvWeights::padded(out) - o;
  if (rest == 8) convolve_group<kTaps, 8, kVecs>(x, stride, pitch, units, w, o, done);
  if (rest == 4) convolve_group<kTaps, 4, kVecs>(x, stride, pitch, units, w, o, done);
}

// ---- what becomes of a tile; kReads: it is added to what is there, fetched beforehand

// out[o][p] = acc
struct Store {
  static constexpr bool kReads = false;
  float* out;  // at the position of the tile
  int64_t stride, count;

  template <int kOut, int kVecs>
  FR_INLINE void operator()(int64_t first, V (&acc)[kOut][kVecs]) const {
#pragma GCC unroll 12
    for (int o = 0; o < kOut; ++o) {
      if (first + o >= count) break;
      float* to = out + (first + o) * stride;
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) Lanes::store(to + v * Lanes::kWidth, acc[o][v]);
    }
  }
};

// Planes of floats, or of pairs of bfloat16.
template <typename Unit, int kOut, int kVecs>
FR_INLINE void put(Unit* out, int64_t stride, int64_t first, V (&value)[kOut][kVecs]) {
  constexpr bool kPaired = sizeof(Unit) == 4 && !std::is_same_v<Unit, float>;
  constexpr int kStep = kPaired ? 2 : 1;
#pragma GCC unroll 12
  for (int o = 0; o < kOut; o += kStep)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      Unit* to = out + (first + o) / kStep * stride + v * Lanes::kWidth;
      if constexpr (kPaired)
        Lanes::store(to, Lanes::pair(value[o][v], value[o + 1][v]));
      else
        Lanes::store(to, value[o][v]);
    }
}

FR_INLINE unsigned bits_at(const uint8_t* bits, int64_t position) {
  if constexpr (Lanes::kWidth == 8) return bits[position / 8];
  uint16_t word;
  std::memcpy(&word, bits + position / 8, 2);
  return word;
}

FR_INLINE void set_bits(uint8_t* bits, int64_t position, unsigned value) {
  bits[position / 8] = static_cast<uint8_t>(value);
  if constexpr (Lanes::kWidth == 16) bits[position / 8 + 1] = static_cast<uint8_t>(value >> 8);
}

// Bottleneck forward: ReLU(acc + bias) at pixels, 0 between them; keeps what was positive.
template <typename Unit>
struct Activate {
  static constexpr bool kReads = false;
  Unit* out;  // at the position of the tile
  int64_t stride;
  const float* bias;
  const uint8_t* valid;
  uint8_t* mask;  // [outputs, span / 8], or null where no backward follows
  int64_t position, span;

  template <int kOut, int kVecs>
  FR_INLINE void operator()(int64_t first, V (&acc)[kOut][kVecs]) const {
#pragma GCC unroll 12
    for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = position + v * Lanes::kWidth;
        const V y = Lanes::relu(Lanes::add(acc[o][v], Lanes::splat(bias[first + o])));
        acc[o][v] = Lanes::keep(y, bits_at(valid, at));
        if (mask) set_bits(mask + (first + o) * span / 8, at, Lanes::positive(acc[o][v]));
      }
    put(out, stride, first, acc);
  }
};

// Bottleneck backward: the gradient where the ReLU was open, into a strip.
template <typename Unit>
struct Gate {
  static constexpr bool kReads = false;
  Unit* out;
  int64_t stride;
  const uint8_t* mask;
  int64_t position, span;

  template <int kOut, int kVecs>
  FR_INLINE void operator()(int64_t first, V (&acc)[kOut][kVecs]) const {
#pragma GCC unroll 12
    for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = position + v * Lanes::kWidth;
        acc[o][v] = Lanes::keep(acc[o][v], bits_at(mask + (first + o) * span / 8, at));
      }
    put(out, stride, first, acc);
  }
};

// Through ReLU backward: gradient[c][p] += acc where x scale + shift > 0; the scale of the norm is
// in the weights already. A 3x3 convolution computes something between pixels too, which kPixels
// leaves out.
template <bool kPixels>
struct Accumulate {
  static constexpr bool kReads = true;
  float* gradient;  // at the position of the tile
  int64_t stride;
  const float* x;  // likewise
  int64_t x_stride;
  const float *scale, *shift;
  int64_t count;
  const uint8_t* valid;
  int64_t position;

  template <int kOut, int kVecs>
  FR_INLINE void prefetch(int64_t first) const {
    for (int64_t c = first; c < first + kOut; ++c)
      for (int v = 0; v < kVecs * Lanes::kWidth; v += 16) {
        __builtin_prefetch(x + c * x_stride + v);
        __builtin_prefetch(gradient + c * stride + v, 1);
      }
  }

  template <int kOut, int kVecs>
  FR_INLINE void operator()(int64_t first, V (&acc)[kOut][kVecs]) const {
#pragma GCC unroll 12
    for (int o = 0; o < kOut; ++o) {
      const int64_t c = first + o;
      if (c >= count) break;
      const V s = Lanes::splat(scale[c]), b = Lanes::splat(shift[c]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const V test = Lanes::madd(b, Lanes::load(x + c * x_stride + v * Lanes::kWidth), s);
        float* at = gradient + c * stride + v * Lanes::kWidth;
        V through = acc[o][v];
        if constexpr (kPixels)
          through = Lanes::keep(through, bits_at(valid, position + v * Lanes::kWidth));
        Lanes::store(at, Lanes::add_where_positive(test, Lanes::load(at), through));
      }
    }
  }
};

// ---- norm and ReLU before a convolution

FR_INLINE V open(const float* x, float scale, float shift) {
  return Lanes::relu(Lanes::madd(Lanes::splat(shift), Lanes::load(x), Lanes::splat(scale)));
}

// ReLU(x scale + shift) of kVecs vectors of every channel.
template <int kVecs, typename Unit>
FR_INLINE void normalise(const float* x, int64_t x_stride, int64_t channels, const float* scale,
                         const float* shift, Unit* out, int64_t stride) {
  constexpr int kWidth = Lanes::kWidth;
  if constexpr (std::is_same_v<Unit, float>) {
    for (int64_t c = 0; c < channels; ++c, x += x_stride, out += stride)
      for (int v = 0; v < kVecs * kWidth; v += kWidth)
        Lanes::store(out + v, open(x + v, scale[c], shift[c]));
  } else {
    for (int64_t c = 0; c < channels; c += 2, x += 2 * x_stride, out += stride)
      for (int v = 0; v < kVecs * kWidth; v += kWidth) {
        const V low = open(x + v, scale[c], shift[c]);
        const bool more = c + 1 < channels;
        const V high =
            more ? open(x + x_stride + v, scale[c + 1], shift[c + 1]) : Lanes::splat(0.f);
        Lanes::store(out + v, Lanes::pair(low, high));
      }
  }
}

// ---- a thread's pass through the network

// Calls task.template strip<vectors>(p) for all positions.
template <typename Task>
FR_INLINE void sweep(int64_t span, const Task& task) {
  int64_t p = 0;
  for (; p + kStrip <= span; p += kStrip) task.template strip<Lanes::kVecs>(p);
  if (p < span) task.template strip<1>(p);
}

template <typename Unit>
struct SqueezeForward {
  const DenseNetPlan& plan;
  const DenseBlock& block;
  const DenseLayer& layer;
  const float *weights, *x;
  float* strip_memory;
  Unit* hidden;  // [width, stride], at position 0
  uint8_t* mask;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    constexpr int64_t kWide = kVecs * Lanes::kWidth;
    const Plane& plane = block.plane;
    Unit* in = reinterpret_cast<Unit*>(strip_memory);
    normalise<kVecs>(x + p, plane.packed, layer.channels, weights + layer.norm.scale,
                     weights + layer.norm.shift, in, kWide);
    const Activate<Unit> done{
        hidden + p, plane.stride, weights + layer.bias, block.valid.data(), mask, p, plane.span};
    const Unit* w = reinterpret_cast<const Unit*>(weights + layer.squeeze.forward);
    convolve<1, kVecs>(in, kWide, 0, layer.squeeze.units, w, layer.squeeze.out, done);
  }
};

// Norm and ReLU of a layer without a bottleneck, 0 between pixels.
template <typename Unit>
struct NormaliseForward {
  const DenseBlock& block;
  const DenseLayer& layer;
  const float *weights, *x;
  Unit* out;  // [channels, stride], at position 0

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    const Plane& plane = block.plane;
    normalise<kVecs>(x + p, plane.packed, layer.channels, weights + layer.norm.scale,
                     weights + layer.norm.shift, out + p, plane.stride);
    for (int64_t c = 0; c < layer.grow.units; ++c)
      for (int64_t j = p; j < p + kVecs * Lanes::kWidth; ++j)
        if (!(block.valid[j / 8] >> j % 8 & 1)) out[c * plane.stride + j] = 0;
  }
};

// Any convolution of planes whose result is stored as it is.
template <int kTaps, typename Unit>
struct Convolve {
  const ConvWeights& conv;
  const float* weights;
  const Unit* in;
  int64_t in_stride, pitch;
  float* out;
  int64_t out_stride;
  bool back = false;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    const Unit* w = reinterpret_cast<const Unit*>(weights + (back ? conv.backward : conv.forward));
    const int64_t count = back ? conv.in : conv.out;
    convolve<kTaps, kVecs>(in + p, in_stride, pitch, back ? conv.back_units : conv.units, w, count,
                           Store{out + p, out_stride, count});
  }
};

// A layer's gradient, from what it has appended to what it has read.
template <typename Unit>
struct LayerBackward {
  const DenseBlock& block;
  const DenseLayer& layer;
  const float *weights, *x;
  const Unit* appended;  // gradient of what the layer has appended, at position 0
  float* gradient;       // [channels, stride], at position 0
  float* strip_memory;
  const uint8_t* mask;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    constexpr int64_t kWide = kVecs * Lanes::kWidth;
    const Plane& plane = block.plane;
    const ConvWeights &grow = layer.grow, &squeeze = layer.squeeze;
    const Unit* w = reinterpret_cast<const Unit*>(weights + grow.backward);
    if (squeeze.out == 0)
      return convolve<9, kVecs>(appended + p, plane.stride, plane.pitch, grow.back_units, w,
                                grow.in, accumulate<true>(p));
    Unit* inner = reinterpret_cast<Unit*>(strip_memory);
    convolve<9, kVecs>(appended + p, plane.stride, plane.pitch, grow.back_units, w, grow.in,
                       Gate<Unit>{inner, kWide, mask, p, plane.span});
    w = reinterpret_cast<const Unit*>(weights + squeeze.backward);
    convolve<1, kVecs>(inner, kWide, 0, squeeze.back_units, w, squeeze.in, accumulate<false>(p));
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
  Pass(const DenseNetArgs& args, float* scratch, float* state)
      : plan_(*args.plan), weights_(args.weights), s_(plan_, scratch), state_(state) {}

  // Images x [count, C, H, W] to outputs z [count, d]; the state is what `backward` needs.
  void forward(const float* x, float* z, int64_t count, bool save) {
    const DenseBlock& first = plan_.blocks[0];
    lay_out(x, count);
    sweep(first.plane.span,
          Convolve<9, float>{plan_.stem, weights_, s_.input + first.plane.lead, first.plane.stride,
                             first.plane.pitch, state_ + first.x, first.plane.packed});
    for (size_t b = 0; b < plan_.blocks.size(); ++b) {
      const DenseBlock& block = plan_.blocks[b];
      append(block, save);
      if (block.transition.out == 0) break;
      const DenseBlock& next = plan_.blocks[b + 1];
      pool(block, next.plane);
      sweep(next.plane.span,
            Convolve<1, float>{block.transition, weights_, s_.pooled, next.plane.packed, 0,
                               state_ + next.x, next.plane.packed});
    }
    classify(z, count);
  }

  // Gradient [count, C, H, W] by the images of what has the gradient dz [count, d] by the outputs.
  void backward(const float* dz, float* grad, int64_t count) {
    declassify(dz, count);
    for (int64_t b = plan_.blocks.size() - 1; b >= 0; --b) {
      const DenseBlock& block = plan_.blocks[b];
      if (block.transition.out > 0) {
        const Plane& next = plan_.blocks[b + 1].plane;
        sweep(next.span, Convolve<1, float>{block.transition, weights_, s_.gradient + next.lead,
                                            next.stride, 0, s_.pooled, next.packed, true});
        unpool(block, next);
      }
      for (int64_t i = block.layers.size() - 1; i >= 0; --i) descend(block, block.layers[i]);
    }
    const Plane& plane = plan_.blocks[0].plane;
    sweep(plane.span,
          Convolve<9, float>{plan_.stem, weights_, s_.gradient + plane.lead, plane.stride,
                             plane.pitch, s_.input + plane.lead, plane.stride, true});
    const int64_t C = plan_.shape.in_channels, H = plane.height, W = plane.width;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t y = 0; y < H; ++y)
          std::memcpy(grad + ((i * C + c) * H + y) * W,
                      s_.input + c * plane.stride + plane.lead + plane.at(i, y), W * sizeof(float));
  }

 private:
  void lay_out(const float* x, int64_t count) {
    const Plane& plane = plan_.blocks[0].plane;
    const int64_t C = plan_.shape.in_channels, H = plane.height, W = plane.width;
    std::memset(s_.input, 0, C * plane.stride * sizeof(float));
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t y = 0; y < H; ++y)
          std::memcpy(s_.input + c * plane.stride + plane.lead + plane.at(i, y),
                      x + ((i * C + c) * H + y) * W, W * sizeof(float));
  }

  uint8_t* mask(const DenseLayer& layer) { return reinterpret_cast<uint8_t*>(state_ + layer.mask); }

  // All layers of a block: each reads the planes before its own.
  void append(const DenseBlock& block, bool save) {
    const Plane& plane = block.plane;
    float* x = state_ + block.x;
    Unit* hidden = reinterpret_cast<Unit*>(s_.hidden);
    const DenseLayer& last = block.layers.back();
    std::memset(hidden, 0, last.grow.units * plane.stride * sizeof(Unit));
    hidden += plane.lead;
    for (const DenseLayer& layer : block.layers) {
      if (layer.squeeze.out > 0)
        sweep(plane.span, SqueezeForward<Unit>{plan_, block, layer, weights_, x, s_.strip, hidden,
                                               save ? mask(layer) : nullptr});
      else
        sweep(plane.span, NormaliseForward<Unit>{block, layer, weights_, x, hidden});
      sweep(plane.span, Convolve<9, Unit>{layer.grow, weights_, hidden, plane.stride, plane.pitch,
                                          x + layer.channels * plane.packed, plane.packed});
    }
  }

  void descend(const DenseBlock& block, const DenseLayer& layer) {
    const Plane& plane = block.plane;
    float* own = s_.gradient + layer.channels * plane.stride;
    const Unit* appended = reinterpret_cast<const Unit*>(own);
    if constexpr (!std::is_same_v<Unit, float>) {
      Unit* pairs = reinterpret_cast<Unit*>(s_.hidden);
      const int64_t growth = plan_.shape.growth;
      for (int64_t c = 0; c < growth; c += 2)
        for (int64_t p = 0; p < plane.stride; p += Lanes::kWidth) {
          const float* from = own + c * plane.stride + p;
          const V high = c + 1 < growth ? Lanes::load(from + plane.stride) : Lanes::splat(0.f);
          Lanes::store(pairs + c / 2 * plane.stride + p, Lanes::pair(Lanes::load(from), high));
        }
      appended = pairs;
    }
    sweep(plane.span,
          LayerBackward<Unit>{block, layer, weights_, state_ + block.x, appended + plane.lead,
                              s_.gradient + plane.lead, s_.strip, mask(layer)});
  }

  // Norm, ReLU and the mean of 2x2 pixels; the 1x1 convolution, which is linear, comes after it.
  void pool(const DenseBlock& block, const Plane& next) {
    const Plane& plane = block.plane;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    for (int64_t c = 0; c < block.channels; ++c) {
      const float* x = state_ + block.x + c * plane.packed;
      float* out = s_.pooled + c * next.packed;
      for (int64_t i = 0; i < plane.images; ++i)
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
      for (int64_t i = 0; i < plane.images; ++i)
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
  void classify(float* z, int64_t count) {
    const DenseBlock& block = plan_.last();
    const Plane& plane = block.plane;
    const int64_t d = plan_.shape.outputs;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    for (int64_t i = 0; i < count; ++i) {
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

  void declassify(const float* dz, int64_t count) {
    const DenseBlock& block = plan_.last();
    const Plane& plane = block.plane;
    const int64_t d = plan_.shape.outputs, C = block.channels;
    const float *scale = weights_ + block.norm.scale, *shift = weights_ + block.norm.shift;
    std::memset(s_.gradient, 0, C * plane.stride * sizeof(float));
    std::memset(s_.row, 0, (plane.width + 16) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
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
    Pass<Unit> pass(a, scratch, own);
    if (a.z) pass.forward(a.x + first * size, a.z + first * d, count, a.state || a.dz);
    if (a.dz) pass.backward(a.dz + first * d, a.grad + first * size, count);
  }
}

inline void run(const DenseNetArgs& args, int64_t begin, int64_t end, float* scratch) {
  if constexpr (Lanes::kPairs)
    if (args.plan->half) return run_groups<uint32_t>(args, begin, end, scratch);
  run_groups<float>(args, begin, end, scratch);
}
