// The layers of a dense block on a GPU, backward: one kernel a layer, whose hidden gradients stay
// in shared memory.
#pragma once

#include "densenet/cuda/task.h"

namespace fastrobust {

// What a layer's gradient by its inputs is added to: through ReLU and norm of the channels it read.
template <typename S>
struct Accumulate {
  Channels<const S> x;
  const float *scale, *shift;
  float* gradient;  // the stride is that of x

  template <typename Team>
  FR_HD void operator()(const Team& team, const float* sums, int stride, int n0, int pieces,
                        int channels, int64_t first) const {
    struct Loaded {
      Piece<S> x;
      Piece<float> gradient;
    };
    const Accumulate task = *this;
    team.template columns<2>(
        kTileRows, pieces,
        [=](int column) FR_LAMBDA {
          const int n = n0 + column * kPiece;
          return ScaleShift{read(task.scale + n, kPiece), read(task.shift + n, kPiece)};
        },
        [=](int row, int column) FR_LAMBDA {
          const int64_t pixel = first + row;
          const int n = n0 + column * kPiece;
          const bool real = task.x.frame.holds(pixel);
          const int64_t at = real ? pixel * task.x.stride + n : 0;
          const int count = real ? channels - n : 0;
          return Loaded{read(task.x.at + at, count), read<float>(task.gradient + at, count)};
        },
        [=](int row, int column, const ScaleShift& norm, const Loaded& loaded) FR_LAMBDA {
          const int64_t pixel = first + row;
          const int n = n0 + column * kPiece;
          if (!task.x.frame.holds(pixel) || n >= channels) return;
          const Piece<float> sum = read(sums + row * stride + column * kPiece, kPiece);
          Piece<float> out = loaded.gradient;
          for (int i = 0; i < kPiece; ++i)
            if (norm(to_float(loaded.x.at[i]), i) > 0) out.at[i] += sum.at[i] * norm.scale.at[i];
          write(task.gradient + pixel * task.x.stride + n, out, channels - n);
        });
  }
};

// Backward of a layer without a bottleneck.
template <Precision P>
struct PlainBack : ConvolutionTask<PlainBack<P>, P, 9> {
  using Base = ConvolutionTask<PlainBack<P>, P, 9>;
  using Base::product;  // from the growth to the channels read
  using typename Base::Memory;
  using S = Operand<P>;
  Accumulate<S> end;

  FR_HD const Frame& frame() const { return end.x.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const Frame& frame = end.x.frame;
    const int64_t first = index * kTileRows, origin = memory.origin(frame, first);
    memory.mark(team, frame, first);
    convolve(
        team, product, memory, frame.width,
        [&](int k0, int pieces) FR_LAMBDA {
          fill_plain<P>(team, end.gradient + product.out, end.x.stride, product.in, frame, origin,
                        product.rows(frame.width), memory.strip, memory.stride, k0, pieces);
        },
        [&](int n0, int pieces, int stride)
            FR_LAMBDA { end(team, memory.sums, stride, n0, pieces, product.out, first); });
  }
};

// Backward of a layer with a bottleneck: the transposed 3x3 convolution, the mask of the hidden
// ReLU, the transposed 1x1 convolution.
template <Precision P>
struct BottleneckBack {
  using S = Operand<P>;
  struct Memory {
    Bench<P, 9> grow;
    Bench<P, 1> squeeze;
  };
  Sharing sharing;
  Product<P, 9> grow;     // from the growth to the hidden channels
  Product<P, 1> squeeze;  // from them to the channels read
  const uint8_t* mask;
  int mask_bytes;
  Accumulate<S> end;

  FR_HD int64_t tiles() const { return (end.x.frame.pixels + kTileRows - 1) / kTileRows; }
  FR_HD Memory lay(Arena& arena) const {
    const int most = squeeze.out > grow.out ? squeeze.out : grow.out;
    float* sums = arena.take<float>(Bench<P, 9>::sums_size(most));
    Memory memory;
    memory.grow.lay(arena, grow, sharing, end.x.frame.width, sums);
    memory.squeeze.lay(arena, squeeze, {sharing.resident, whole()}, 0, sums);
    return memory;
  }
  template <typename Team>
  FR_HD void begin(const Team& team, const Memory& memory) const {
    memory.grow.begin(team, grow);
    memory.squeeze.begin(team, squeeze);
  }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const Frame& frame = end.x.frame;
    const int64_t first = index * kTileRows, origin = memory.grow.origin(frame, first);
    memory.grow.mark(team, frame, first);
    convolve(
        team, grow, memory.grow, frame.width,
        [&](int k0, int pieces) FR_LAMBDA {
          fill_plain<P>(team, end.gradient + squeeze.out, end.x.stride, grow.in, frame, origin,
                        grow.rows(frame.width), memory.grow.strip, memory.grow.stride, k0, pieces);
        },
        [&](int n0, int pieces, int stride)
            FR_LAMBDA { gate(team, memory, stride, n0, pieces, first); });
    convolve(
        team, squeeze, memory.squeeze, 0, [](int, int) FR_LAMBDA {},
        [&](int n0, int pieces, int stride)
            FR_LAMBDA { end(team, memory.squeeze.sums, stride, n0, pieces, squeeze.out, first); });
  }

 private:
  FR_HD int whole() const { return (squeeze.in + kStep - 1) / kStep * kStep; }

  template <typename Team>
  FR_HD void gate(const Team& team, const Memory& memory, int stride, int n0, int pieces,
                  int64_t first) const {
    const uint8_t* open = mask;
    const int bytes = mask_bytes, hidden = grow.out, out_stride = memory.squeeze.stride;
    const float* sums = memory.grow.sums;
    S* out = memory.squeeze.strip;
    const Frame frame = end.x.frame;
    team.template columns<4>(
        kTileRows, pieces, [=](int) FR_LAMBDA { return Nothing{}; },
        [=](int row, int column) FR_LAMBDA {
          const int64_t pixel = first + row;
          const int n = n0 + column * kPiece;
          return frame.holds(pixel) && n < hidden ? open[pixel * bytes + n / kPiece] : uint8_t{0};
        },
        [=](int row, int column, Nothing, uint8_t bits) FR_LAMBDA {
          const int n = n0 + column * kPiece;
          const Piece<float> sum = read(sums + row * stride + column * kPiece, kPiece);
          Piece<S> piece;
          for (int i = 0; i < kPiece; ++i)
            piece.at[i] = operand<P>(bits >> i & 1 ? sum.at[i] : 0.f);
          write(out + row * out_stride + n, piece, kPiece);
        });
  }
};

}  // namespace fastrobust
