// The two ends of a DenseNet on a GPU: stem, classifier and their backwards.
// All of it is float32, whatever the precision of the layers.
#pragma once

#include "densenet/cuda/task.h"

namespace fastrobust {

// 3x3 convolution of the images to a block's first channels.
template <typename S>
struct Stem : ConvolutionTask<Stem<S>, kFull, 9> {
  using Base = ConvolutionTask<Stem<S>, kFull, 9>;
  using Base::product;
  using typename Base::Memory;
  const float* images;  // [N, C, H, W]
  Channels<S> x;

  FR_HD const Frame& frame() const { return x.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const int64_t first = index * kTileRows, origin = memory.origin(x.frame, first);
    memory.mark(team, x.frame, first);
    convolve(
        team, product, memory, x.frame.width,
        [&](int k0, int pieces) FR_LAMBDA { fill(team, memory, origin, k0, pieces); },
        [&](int n0, int pieces, int stride) FR_LAMBDA {
          append<S>(team, memory.sums, stride, n0, pieces, product.out, x.frame, first, x.at,
                    x.stride);
        });
  }

 private:
  template <typename Team>
  FR_HD void fill(const Team& team, const Memory& memory, int64_t origin, int k0,
                  int pieces) const {
    const Stem task = *this;
    float* strip = memory.strip;
    const int stride = memory.stride;
    team.template columns<2>(
        product.rows(x.frame.width), pieces, [=](int) FR_LAMBDA { return Nothing{}; },
        [=](int row, int column) FR_LAMBDA {
          const Frame& frame = task.x.frame;
          const int64_t pixel = origin + row, area = int64_t{frame.height} * frame.width;
          const int k = k0 + column * kPiece, count = task.product.in - k;
          Piece<float> piece;
          for (float& value : piece.at) value = 0;
          if (count <= 0 || !frame.holds(pixel)) return piece;
          const int64_t image = frame.image_of(pixel);
          const float* from =
              task.images + (image * task.product.in + k) * area + pixel - image * area;
          for (int i = 0; i < kPiece; ++i)
            if (i < count) piece.at[i] = from[i * area];
          return piece;
        },
        [=](int row, int column, Nothing, const Piece<float>& piece)
            FR_LAMBDA { write(strip + row * stride + column * kPiece, piece, kPiece); });
  }
};

struct StemBack : ConvolutionTask<StemBack, kFull, 9> {
  Channels<const float> gradient;  // of the first block
  float* images;                   // [N, C, H, W] gradient by the images

  FR_HD const Frame& frame() const { return gradient.frame; }

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t index) const {
    const Frame& frame = gradient.frame;
    const int64_t first = index * kTileRows, origin = memory.origin(frame, first);
    memory.mark(team, frame, first);
    convolve(
        team, product, memory, frame.width,
        [&](int k0, int pieces) FR_LAMBDA {
          fill_plain<kFull>(team, gradient.at, gradient.stride, product.in, frame, origin,
                            product.rows(frame.width), memory.strip, memory.stride, k0, pieces);
        },
        [&](int n0, int pieces, int stride)
            FR_LAMBDA { put(team, memory.sums, stride, n0, pieces, first); });
  }

 private:
  // Neighbouring threads take neighbouring pixels.
  template <typename Team>
  FR_HD void put(const Team& team, const float* sums, int stride, int n0, int pieces,
                 int64_t first) const {
    const StemBack task = *this;
    const int left = product.out - n0, count = left < pieces * kPiece ? left : pieces * kPiece;
    team.each(int64_t{count} * kTileRows, [=](int64_t j) FR_LAMBDA {
      const Frame& frame = task.gradient.frame;
      const int64_t row = j % kTileRows, n = j / kTileRows, pixel = first + row;
      if (!frame.holds(pixel)) return;
      const int64_t area = int64_t{frame.height} * frame.width, image = frame.image_of(pixel);
      task.images[(image * task.product.out + n0 + n) * area + pixel - image * area] =
          sums[row * stride + n];
    });
  }
};

// Norm, ReLU, mean over the pixels, linear layer; a tile is an image.
template <typename S>
struct Classify {
  struct Memory {
    float* features;
  };
  Sharing sharing;
  Channels<const S> x;
  int channels, outputs;
  const float *scale, *shift, *linear, *bias;
  float* z;  // [N, outputs]

  FR_HD int64_t tiles() const { return x.frame.image_of(x.frame.pixels); }
  FR_HD Memory lay(Arena& arena) const { return {arena.take<float>(channels)}; }
  template <typename Team>
  FR_HD void begin(const Team&, const Memory&) const {}

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t image) const {
    const Classify task = *this;
    const int area = x.frame.height * x.frame.width;
    float* features = memory.features;
    team.each(channels, [=](int64_t c) FR_LAMBDA {
      const S* from = task.x.at + image * area * task.x.stride + c;
      const float scale = task.scale[c], shift = task.shift[c];
      float sum = 0;
      FR_UNROLL(8)
      for (int p = 0; p < area; ++p)
        sum += relu(fused(to_float(from[int64_t{p} * task.x.stride]), scale, shift));
      features[c] = sum / area;
    });
    team.sync();
    team.template sums<32, float>(
        outputs, channels,
        [=](int64_t o, int64_t c, float sum)
            FR_LAMBDA { return fused(features[c], task.linear[o * task.channels + c], sum); },
        [=](int64_t o, float sum)
            FR_LAMBDA { task.z[image * task.outputs + o] = sum + task.bias[o]; });
  }
};

// Writes the gradient of all channels of the last block.
template <typename S>
struct ClassifyBack {
  struct Memory {
    float* features;
  };
  Sharing sharing;
  Channels<const S> x;
  int channels, outputs;
  const float *scale, *shift, *linear;
  const float* dz;  // [N, outputs]
  float* gradient;  // the stride is that of x

  FR_HD int64_t tiles() const { return x.frame.image_of(x.frame.pixels); }
  FR_HD Memory lay(Arena& arena) const {
    return {arena.take<float>((channels + kPiece - 1) / kPiece * kPiece)};
  }
  template <typename Team>
  FR_HD void begin(const Team&, const Memory&) const {}

  template <typename Team>
  FR_HD void tile(const Team& team, const Memory& memory, int64_t image) const {
    const ClassifyBack task = *this;
    const int area = x.frame.height * x.frame.width;
    float* features = memory.features;
    team.each(channels, [=](int64_t c) FR_LAMBDA {
      float sum = 0;
      for (int o = 0; o < task.outputs; ++o)
        sum = fused(task.dz[image * task.outputs + o], task.linear[o * task.channels + c], sum);
      features[c] = sum * task.scale[c] / area;
    });
    team.sync();
    team.template columns<4>(
        area, (channels + kPiece - 1) / kPiece,
        [=](int column) FR_LAMBDA {
          const int c = column * kPiece;
          return ScaleShift{read(task.scale + c, kPiece), read(task.shift + c, kPiece)};
        },
        [=](int row, int column) FR_LAMBDA {
          const int c = column * kPiece;
          return read(task.x.at + (image * area + row) * task.x.stride + c, task.channels - c);
        },
        [=](int row, int column, const ScaleShift& norm, const Piece<S>& x) FR_LAMBDA {
          const int c = column * kPiece;
          Piece<float> out;
          for (int i = 0; i < kPiece; ++i)
            out.at[i] = norm(to_float(x.at[i]), i) > 0 ? features[c + i] : 0.f;
          write(task.gradient + (image * area + row) * task.x.stride + c, out, task.channels - c);
        });
  }
};

}  // namespace fastrobust
