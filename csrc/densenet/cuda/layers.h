// The layers of a dense block on a GPU, forward: a bottleneck and a 3x3 convolution, a kernel each,
// or one kernel where there is no bottleneck.
#pragma once

#include "densenet/cuda/task.h"

namespace fastrobust {

// Norm, ReLU, 1x1 convolution, bias, ReLU.
template <Precision P>
struct Squeeze : ConvolutionTask<Squeeze<P>, P, 1> {
  using Base = ConvolutionTask<Squeeze<P>, P, 1>;
  using Base::product;
  using typename Base::Memory;
  using S = Operand<P>;
  Channels<const S> x;
  const float *scale, *shift, *bias;
  S* hidden;
  int hidden_stride;
  uint8_t* mask;  // or null where no backward follows
  int mask_bytes;

  FR_HD const Frame& frame() const { return x.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const int64_t first = index * kTileRows;
    convolve(
        team, product, memory, 0,
        [&](int k0, int pieces) FR_LAMBDA {
          fill_normed<P>(team, x.at, x.stride, product.in, scale, shift, x.frame, first, kTileRows,
                         memory.strip, memory.stride, k0, pieces);
        },
        [&](int n0, int pieces, int stride)
            FR_LAMBDA { activate(team, memory.sums, stride, n0, pieces, first); });
  }

 private:
  template <typename Team>
  FR_HD void activate(const Team& team, const float* sums, int stride, int n0, int pieces,
                      int64_t first) const {
    const Squeeze task = *this;
    team.template columns<2>(
        kTileRows, pieces,
        [=](int column) FR_LAMBDA { return read(task.bias + n0 + column * kPiece, kPiece); },
        [=](int row, int column)
            FR_LAMBDA { return read(sums + row * stride + column * kPiece, kPiece); },
        [=](int row, int column, const Piece<float>& bias, const Piece<float>& sum) FR_LAMBDA {
          const int64_t pixel = first + row;
          const int n = n0 + column * kPiece;
          if (!task.x.frame.holds(pixel)) return;
          Piece<S> out;
          unsigned open = 0;
          for (int i = 0; i < kPiece; ++i) {
            const float y = relu(sum.at[i] + bias.at[i]);
            open |= (y > 0 ? 1u : 0u) << i;
            out.at[i] = operand<P>(y);
          }
          write(task.hidden + pixel * task.hidden_stride + n, out, kPiece);
          if (task.mask && n < task.product.out)
            task.mask[pixel * task.mask_bytes + n / kPiece] = static_cast<uint8_t>(open);
        });
  }
};

// The 3x3 convolution, from a bottleneck's outputs or (kNorm) from the block's channels through
// norm and ReLU, to the channels behind them.
template <Precision P, bool kNorm>
struct Grow : ConvolutionTask<Grow<P, kNorm>, P, 9> {
  using Base = ConvolutionTask<Grow<P, kNorm>, P, 9>;
  using Base::product;
  using typename Base::Memory;
  using S = Operand<P>;
  Channels<const S> from;
  const float *scale, *shift;  // where kNorm
  S* to;                       // the layer's first own channel
  int to_stride;

  FR_HD const Frame& frame() const { return from.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const int64_t first = index * kTileRows, origin = memory.origin(from.frame, first);
    const int rows = product.rows(from.frame.width);
    memory.mark(team, from.frame, first);
    convolve(
        team, product, memory, from.frame.width,
        [&](int k0, int pieces) FR_LAMBDA {
          if constexpr (kNorm)
            fill_normed<P>(team, from.at, from.stride, product.in, scale, shift, from.frame, origin,
                           rows, memory.strip, memory.stride, k0, pieces);
          else
            fill_plain<P>(team, from.at, from.stride, product.in, from.frame, origin, rows,
                          memory.strip, memory.stride, k0, pieces);
        },
        [&](int n0, int pieces, int stride) FR_LAMBDA {
          append<S>(team, memory.sums, stride, n0, pieces, product.out, from.frame, first, to,
                    to_stride);
        });
  }
};

}  // namespace fastrobust
