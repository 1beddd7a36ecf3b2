// Convolutions in register tiles, for one instruction set: included by engine.h in the
// namespace of each, whose Lanes it uses.
//
// Planes of pixels lie one after the other, a channel each, and a tile is a few vectors of pixels
// times up to 12 channels: no lane is lost to growth rates that fill no vector. Every number is
// summed in one order, input by input, tap by tap.

#include "densenet/cpu/tile_ends.h"

// acc[o][v] += the sum over inputs and taps of weight times input, for vectors of pixels from x on.
template <int kTaps, int kOut, int kVecs, typename Unit>
FR_INLINE void multiply(V (&acc)[kOut][kVecs], const Unit* x, int64_t stride, int64_t pitch,
                        int64_t column, int64_t units, const Unit* w, int64_t group) {
  for (int64_t i = 0; i < units; ++i, x += stride) {
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t, w += group) {
      const Unit* at = kTaps == 1 ? x : x + (t / 3 - 1) * pitch + (t % 3 - 1) * column;
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
FR_INLINE void convolve_group(const Unit* x, int64_t stride, int64_t pitch, int64_t column,
                              int64_t units, const Unit* w, int64_t first, const Done& done) {
  constexpr int kOut =
      kGroup % Lanes::kOut == 0 ? Lanes::kOut : (kGroup < Lanes::kOut ? kGroup : 4);
  for (int o = 0; o < kGroup; o += kOut) {
    V acc[kOut][kVecs];
#pragma GCC unroll 12
    for (int i = 0; i < kOut; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) acc[i][v] = Lanes::splat(0.f);
    if constexpr (Done::kReads) done.template prefetch<kOut, kVecs>(first + o);
    multiply<kTaps>(acc, x, stride, pitch, column, units, w + o, kGroup);
    done(first + o, acc);
  }
}

// All outputs of a convolution for kVecs vectors of pixels. A tap's column is `column` numbers
// behind the one before: 1, or where another copy of the planes is.
template <int kTaps, int kVecs, typename Unit, typename Done>
__attribute__((noinline)) void convolve(const Unit* x, int64_t stride, int64_t pitch,
                                        int64_t column, int64_t units, const Unit* w, int64_t out,
                                        const Done& done) {
  int64_t o = 0;
  for (; o + 12 <= ConvWeights::padded(out); o += 12, w += units * kTaps * 12)
    convolve_group<kTaps, 12, kVecs>(x, stride, pitch, column, units, w, o, done);
  const int64_t rest = ConvWeights::padded(out) - o;
  if (rest == 8) convolve_group<kTaps, 8, kVecs>(x, stride, pitch, column, units, w, o, done);
  if (rest == 4) convolve_group<kTaps, 4, kVecs>(x, stride, pitch, column, units, w, o, done);
}
