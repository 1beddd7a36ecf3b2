// The layers of a block at some vectors of pixels, for one instruction set: included by
// engine.h in the namespace of each, whose Lanes it uses.

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
  Copies<Unit> hidden;
  uint8_t* mask;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    constexpr int64_t kWide = kVecs * Lanes::kWidth;
    Unit* in = reinterpret_cast<Unit*>(strip_memory);
    normalise<kVecs, Unit>(x + p, block.plane.packed, layer.channels, weights + layer.norm.scale,
                           weights + layer.norm.shift,
                           [&](int64_t unit, const auto& value) FR_LAMBDA {
                             for (int v = 0; v < kVecs; ++v)
                               Lanes::store(in + unit * kWide + v * Lanes::kWidth, value[v]);
                           });
    fill_tile<kVecs>(in, layer.squeeze.units);
    const Activate<Unit> done{hidden, weights + layer.bias, block.valid.data(), mask,
                              p,      block.plane.span};
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
  Copies<Unit> hidden;

  template <int kVecs>
  FR_INLINE void strip(int64_t p) const {
    const BitsOf<kVecs> pixels(block.valid.data(), p);
    const auto store = hidden.template at<kVecs>(p);
    normalise<kVecs, Unit>(x + p, block.plane.packed, layer.channels, weights + layer.norm.scale,
                           weights + layer.norm.shift, [&](int64_t unit, auto& value) FR_LAMBDA {
                             for (int v = 0; v < kVecs; ++v)
                               value[v] = Lanes::keep(value[v], pixels.of[v]);
                             store(unit, value);
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
