// From one dense block to the next on a GPU, and back: float32, whatever the precision of the
// layers.
#pragma once

#include "densenet/cuda/task.h"

namespace fastrobust {

// The 2x2 pixels of one block behind a pixel of the next.
struct Pool {
  Frame from, to;

  // The upper left one; `right` and `lower`: an odd size leaves pixels over beside these.
  struct Place {
    int64_t pixel;
    bool right, lower;
  };
  FR_HD Place operator()(int64_t pixel) const {
    const int64_t line = pixel / to.width, image = line / to.height;
    const int64_t x = pixel - line * to.width, y = line - image * to.height;
    return {(image * from.height + 2 * y) * from.width + 2 * x,
            x == to.width - 1 && from.width % 2 == 1, y == to.height - 1 && from.height % 2 == 1};
  }
};

// Norm, ReLU, mean of 2x2 pixels, 1x1 convolution: pooled first, as both are linear.
template <typename S>
struct Transition : ConvolutionTask<Transition<S>, kFull, 1> {
  using Base = ConvolutionTask<Transition<S>, kFull, 1>;
  using Base::product;
  using typename Base::Memory;
  Channels<const S> x;
  const float *scale, *shift;
  Channels<S> next;

  FR_HD const Frame& frame() const { return next.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const int64_t first = index * kTileRows;
    convolve(
        team, product, memory, 0,
        [&](int k0, int pieces) FR_LAMBDA { fill(team, memory, first, k0, pieces); },
        [&](int n0, int pieces, int stride) FR_LAMBDA {
          append<S>(team, memory.sums, stride, n0, pieces, product.out, next.frame, first, next.at,
                    next.stride);
        });
  }

 private:
  template <typename Team>
  FR_HD void fill(const Team& team, const Memory& memory, int64_t first, int k0, int pieces) const {
    struct Square {
      Piece<S> at[4];
    };
    const Transition task = *this;
    float* strip = memory.strip;
    const int stride = memory.stride;
    team.template columns<1>(
        kTileRows, pieces,
        [=](int column) FR_LAMBDA {
          const int k = k0 + column * kPiece;
          return ScaleShift{read(task.scale + k, kPiece), read(task.shift + k, kPiece)};
        },
        [=](int row, int column) FR_LAMBDA {
          const int k = k0 + column * kPiece;
          const bool real = task.next.frame.holds(first + row);
          const int64_t pixel = real ? Pool{task.x.frame, task.next.frame}(first + row).pixel : 0;
          Square square;
          for (int i = 0; i < 4; ++i) {
            const int64_t at = (pixel + i / 2 * task.x.frame.width + i % 2) * task.x.stride + k;
            square.at[i] = read(task.x.at + (real ? at : 0), real ? task.product.in - k : 0);
          }
          return square;
        },
        [=](int row, int column, const ScaleShift& norm, const Square& square) FR_LAMBDA {
          Piece<float> mean;
          for (int i = 0; i < kPiece; ++i) {
            float sum = 0;
            for (int j = 0; j < 4; ++j) sum += relu(norm(to_float(square.at[j].at[i]), i));
            mean.at[i] = 0.25f * sum;
          }
          write(strip + row * stride + column * kPiece, mean, kPiece);
        });
  }
};

// Writes the gradient of all channels of a block.
template <typename S>
struct TransitionBack : ConvolutionTask<TransitionBack<S>, kFull, 1> {
  using Base = ConvolutionTask<TransitionBack<S>, kFull, 1>;
  using Base::product;
  using typename Base::Memory;
  Channels<const float> next;  // gradient
  Channels<const S> x;
  const float *scale, *shift;
  float* gradient;  // the stride is that of x

  FR_HD const Frame& frame() const { return next.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const int64_t first = index * kTileRows;
    convolve(
        team, product, memory, 0,
        [&](int k0, int pieces) FR_LAMBDA {
          fill_plain<kFull>(team, next.at, next.stride, product.in, next.frame, first, kTileRows,
                            memory.strip, memory.stride, k0, pieces);
        },
        [&](int n0, int pieces, int stride)
            FR_LAMBDA { spread(team, memory.sums, stride, n0, pieces, first); });
  }

 private:
  template <typename Team>
  FR_HD void spread(const Team& team, const float* sums, int stride, int n0, int pieces,
                    int64_t first) const {
    const TransitionBack task = *this;
    team.template columns<1>(
        kTileRows, pieces,
        [=](int column) FR_LAMBDA {
          const int n = n0 + column * kPiece;
          return ScaleShift{read(task.scale + n, kPiece), read(task.shift + n, kPiece)};
        },
        [=](int row, int column)
            FR_LAMBDA { return read(sums + row * stride + column * kPiece, kPiece); },
        [=](int row, int column, const ScaleShift& norm, const Piece<float>& sum) FR_LAMBDA {
          const int n = n0 + column * kPiece, count = task.product.out - n;
          if (!task.next.frame.holds(first + row) || count <= 0) return;
          const Pool::Place place = Pool{task.x.frame, task.next.frame}(first + row);
          for (int v = 0; v < (place.lower ? 3 : 2); ++v)
            for (int u = 0; u < (place.right ? 3 : 2); ++u) {
              const int64_t at = (place.pixel + v * task.x.frame.width + u) * task.x.stride + n;
              const Piece<S> x = read(task.x.at + at, count);
              Piece<float> out;
              for (int i = 0; i < kPiece; ++i) {
                const bool open = v < 2 && u < 2 && norm(to_float(x.at[i]), i) > 0;
                out.at[i] = open ? 0.25f * norm.scale.at[i] * sum.at[i] : 0.f;
              }
              write(task.gradient + at, out, count);
            }
        });
  }
};

}  // namespace fastrobust
