// What goes into a tile of a convolution and what becomes of it, for one instruction set: included
// by register_tiles.h in the namespace of each, whose Lanes it uses.
//
// A tile ends in done(first, acc): the sums of some outputs from `first` on at some vectors of
// pixels. With kReads they are added to what is there, which is fetched beforehand.

using V = Lanes::V;

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

// Calls store(unit, vectors) for planes of floats, or of pairs of bfloat16.
template <typename Unit, int kOut, int kVecs, typename Store>
FR_INLINE void each_unit(int64_t first, V (&value)[kOut][kVecs], const Store& store) {
  if constexpr (std::is_same_v<Unit, float>) {
#pragma GCC unroll 12
    for (int o = 0; o < kOut; ++o) store(first + o, value[o]);
  } else {
#pragma GCC unroll 12
    for (int o = 0; o < kOut; o += 2) {
      decltype(Lanes::pair(value[0][0], value[0][0])) both[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) both[v] = Lanes::pair(value[o][v], value[o + 1][v]);
      store(first / 2 + o / 2, both);
    }
  }
}

// A bit for each lane.
using Bits = std::conditional_t<Lanes::kWidth == 16, uint16_t, uint8_t>;

FR_INLINE Bits bits_at(const uint8_t* bits, int64_t position) {
  Bits own;
  std::memcpy(&own, bits + position / 8, sizeof own);
  return own;
}

FR_INLINE void set_bits(uint8_t* bits, int64_t position, unsigned value) {
  const Bits own = static_cast<Bits>(value);
  std::memcpy(bits + position / 8, &own, sizeof own);
}

// Of some vectors from a position on, read once: a byte stored elsewhere might change them. There
// is nothing before position 0.
template <int kVecs>
struct BitsOf {
  Bits of[kVecs];
  BitsOf(const uint8_t* bits, int64_t position) {
    for (int v = 0; v < kVecs; ++v, position += Lanes::kWidth)
      of[v] = position < 0 ? Bits(0) : bits_at(bits, position);
  }
};

// Planes that a 3x3 convolution will read; for a matrix unit there are three of each, which hold
// the pixel to the left, the pixel itself and the one to the right.
template <typename Unit>
struct Copies {
  Unit* middle;  // position 0 of the first
  int64_t stride, column;
  const uint8_t *has_left, *has_right;  // of the block

  // Of vectors from a position on, which follow those that were stored last.
  template <int kVecs>
  struct At {
    Unit* to;
    int64_t stride, column;
    BitsOf<kVecs> has_left;
    BitsOf<kVecs + 1> has_right;  // from the vector before on

    template <typename Value>
    FR_INLINE void operator()(int64_t unit, const Value (&value)[kVecs]) const {
      Unit* own = to + unit * stride;
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) Lanes::store(own + v * Lanes::kWidth, value[v]);
      if constexpr (Lanes::kMatrix) {
        Value last = Lanes::load(own - Lanes::kWidth);
#pragma GCC unroll 5
        for (int v = 0; v <= kVecs; ++v, own += Lanes::kWidth) {
          const Value now = v < kVecs ? value[v < kVecs ? v : 0] : Lanes::splat(Unit(0));
          const Value next = Lanes::template across<1>(last, now);
          Lanes::store(own - Lanes::kWidth + column, Lanes::keep(next, has_right.of[v]));
          if (v < kVecs) {
            const Value previous = Lanes::template across<15>(last, now);
            Lanes::store(own - column, Lanes::keep(previous, has_left.of[v]));
          }
          last = now;
        }
      }
    }
  };

  template <int kVecs>
  FR_INLINE At<kVecs> at(int64_t position) const {
    return {middle + position,
            stride,
            column,
            {has_left, position},
            {has_right, position - Lanes::kWidth}};
  }
};

// Bottleneck forward: ReLU(acc + bias) at pixels, 0 between them; keeps what was positive.
template <typename Unit>
struct Activate {
  static constexpr bool kReads = false;
  Copies<Unit> out;
  const float* bias;
  const uint8_t* valid;
  uint8_t* mask;  // [outputs, span / 8], or null where no backward follows
  int64_t position, span;

  template <int kOut, int kVecs>
  FR_INLINE void operator()(int64_t first, V (&acc)[kOut][kVecs]) const {
    const BitsOf<kVecs> pixels(valid, position);
    const auto store = out.template at<kVecs>(position);
    const int64_t bytes = span / 8;
    uint8_t* own = mask ? mask + first * bytes : nullptr;
#pragma GCC unroll 12
    for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const V y = Lanes::relu(Lanes::add(acc[o][v], Lanes::splat(bias[first + o])));
        acc[o][v] = Lanes::keep(y, pixels.of[v]);
        if (own)
          set_bits(own + o * bytes, position + v * Lanes::kWidth, Lanes::positive(acc[o][v]));
      }
    each_unit<Unit>(first, acc, store);
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
    each_unit<Unit>(first, acc, [&](int64_t unit, const auto& value) FR_LAMBDA {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v)
        Lanes::store(out + unit * stride + v * Lanes::kWidth, value[v]);
    });
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

FR_INLINE V open(const float* x, float scale, float shift) {
  return Lanes::relu(Lanes::madd(Lanes::splat(shift), Lanes::load(x), Lanes::splat(scale)));
}

// ReLU(x scale + shift) of kVecs vectors of every channel, for store(unit, vectors).
template <int kVecs, typename Unit, typename Store>
FR_INLINE void normalise(const float* x, int64_t x_stride, int64_t channels, const float* scale,
                         const float* shift, const Store& store) {
  constexpr int kStep = std::is_same_v<Unit, float> ? 1 : 2;
  for (int64_t c = 0; c < channels; c += kStep, x += kStep * x_stride) {
    V value[kStep][kVecs];
    for (int i = 0; i < kStep; ++i)
      for (int v = 0; v < kVecs; ++v)
        value[i][v] = c + i < channels
                          ? open(x + i * x_stride + v * Lanes::kWidth, scale[c + i], shift[c + i])
                          : Lanes::splat(0.f);
    each_unit<Unit>(c, value, store);
  }
}
