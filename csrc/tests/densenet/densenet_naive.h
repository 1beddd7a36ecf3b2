// A DenseNet and its gradient in double, image by image and with plain loops over maps that stand
// channels first: written from fastrobust/models/densenet.py, not from the engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/densenet/densenet_net.h"

namespace fastrobust {

struct Maps {
  int64_t channels, height, width;
  std::vector<double> v;  // [channels, height, width]

  Maps(int64_t channels, int64_t height, int64_t width)
      : channels(channels), height(height), width(width), v(channels * height * width) {}
  double& at(int64_t c, int64_t y, int64_t x) { return v[(c * height + y) * width + x]; }
  double at(int64_t c, int64_t y, int64_t x) const { return v[(c * height + y) * width + x]; }
};

class NaiveDenseNet {
 public:
  // With `half`, what the layers of the blocks multiply is rounded to bfloat16 first.
  NaiveDenseNet(const TestNet& net, const DenseNetShape& shape, bool half)
      : net_(net), shape_(shape), half_(half) {}

  // How near to 0 a ReLU has been in the last forward.
  double nearest() const { return nearest_; }

  // Outputs [d] of an image [C, H, W].
  std::vector<double> forward(const std::vector<double>& image) {
    nearest_ = std::numeric_limits<double>::infinity();
    ends_.clear();
    inner_.clear();
    Maps x(shape_.in_channels, shape_.height, shape_.width);
    x.v = image;
    x = convolve(x, net_.stem);
    for (const TestBlock& block : net_.blocks) {
      for (const TestLayer& layer : block.layers) {
        Maps hidden = operands(relu(normalise(x, layer.norm)));
        if (layer.squeeze.out > 0) {
          hidden = convolve(hidden, operands(layer.squeeze));
          const int64_t area = x.height * x.width;
          for (size_t i = 0; i < hidden.v.size(); ++i) hidden.v[i] += layer.bias[i / area];
          inner_.push_back(hidden);
          hidden = operands(relu(hidden));
        }
        const Maps grown = convolve(hidden, operands(layer.grow));
        x.v.insert(x.v.end(), grown.v.begin(), grown.v.end());
        x.channels += grown.channels;
      }
      ends_.push_back(x);
      x = relu(normalise(x, block.norm));
      if (block.transition.out > 0) x = pool(convolve(x, block.transition));
    }
    std::vector<double> z(net_.bias.begin(), net_.bias.end());
    const int64_t area = x.height * x.width;
    for (size_t o = 0; o < z.size(); ++o)
      for (size_t i = 0; i < x.v.size(); ++i)
        z[o] += net_.linear.w[o * x.channels + i / area] * x.v[i] / area;
    return z;
  }

  // Gradient [C, H, W] by the image of the last forward of what has the gradient dz [d] by z.
  std::vector<double> backward(const std::vector<double>& dz) {
    size_t inner = inner_.size();
    Maps gradient(0, 0, 0);
    for (size_t b = net_.blocks.size(); b-- > 0;) {
      const TestBlock& block = net_.blocks[b];
      const Maps& x = ends_[b];
      Maps above(x.channels, x.height, x.width);
      const int64_t area = x.height * x.width;
      if (block.transition.out > 0)
        above = turn(unpool(gradient, x), scaled(block.transition, block.norm.scale));
      else
        for (size_t i = 0; i < above.v.size(); ++i)
          for (size_t o = 0; o < dz.size(); ++o)
            above.v[i] += dz[o] * net_.linear.w[o * x.channels + i / area] *
                          block.norm.scale[i / area] / area;
      gradient = Maps(x.channels, x.height, x.width);
      add_where_open(gradient, above, normalise(x, block.norm));
      for (size_t l = block.layers.size(); l-- > 0;) {
        const TestLayer& layer = block.layers[l];
        const int64_t before = layer.norm.scale.size();
        Maps own(layer.grow.out, x.height, x.width), read(before, x.height, x.width);
        std::copy_n(gradient.v.begin() + before * area, own.v.size(), own.v.begin());
        std::copy_n(x.v.begin(), read.v.size(), read.v.begin());
        if (layer.squeeze.out > 0) {
          const Maps& open = inner_[--inner];
          own = turn(operands(own), operands(layer.grow));
          for (size_t i = 0; i < own.v.size(); ++i) own.v[i] = open.v[i] > 0 ? own.v[i] : 0;
          own = turn(operands(own), operands(scaled(layer.squeeze, layer.norm.scale)));
        } else {
          own = turn(operands(own), operands(scaled(layer.grow, layer.norm.scale)));
        }
        add_where_open(gradient, own, normalise(read, layer.norm));
      }
    }
    return turn(gradient, net_.stem).v;
  }

 private:
  Maps operands(Maps maps) const {
    for (double& value : maps.v)
      if (half_) value = bfloat16(static_cast<float>(value));
    return maps;
  }

  TestConv operands(TestConv conv) const {
    for (float& weight : conv.w)
      if (half_) weight = bfloat16(weight);
    return conv;
  }

  // Calls f(output, weight, input, count) for all that a convolution with zero padding brings
  // together: where a row of `count` neighbours begins in the maps on both sides.
  template <typename F>
  static void each_row(const TestConv& conv, int64_t height, int64_t width, const F& f) {
    const int64_t reach = conv.side / 2, area = height * width;
    const float* w = conv.w.data();
    for (int64_t o = 0; o < conv.out; ++o)
      for (int64_t i = 0; i < conv.in; ++i)
        for (int64_t dy = -reach; dy <= reach; ++dy)
          for (int64_t dx = -reach; dx <= reach; ++dx, ++w)
            for (int64_t y = 0; y < height; ++y) {
              const int64_t left = dx < 0 ? -dx : 0, right = dx > 0 ? width - dx : width;
              if (y + dy >= 0 && y + dy < height && left < right)
                f(o * area + y * width + left, *w, i * area + (y + dy) * width + left + dx,
                  right - left);
            }
  }

  static Maps convolve(const Maps& in, const TestConv& conv) {
    Maps out(conv.out, in.height, in.width);
    each_row(conv, in.height, in.width, [&](int64_t o, double w, int64_t i, int64_t count) {
      double* to = out.v.data() + o;
      const double* from = in.v.data() + i;
      for (int64_t j = 0; j < count; ++j) to[j] += w * from[j];
    });
    return out;
  }

  // Gradient by the inputs of a convolution from that by its outputs.
  static Maps turn(const Maps& out, const TestConv& conv) {
    Maps in(conv.in, out.height, out.width);
    each_row(conv, out.height, out.width, [&](int64_t o, double w, int64_t i, int64_t count) {
      double* to = in.v.data() + i;
      const double* from = out.v.data() + o;
      for (int64_t j = 0; j < count; ++j) to[j] += w * from[j];
    });
    return in;
  }

  static Maps normalise(Maps x, const TestNorm& norm) {
    const int64_t area = x.height * x.width;
    for (size_t i = 0; i < x.v.size(); ++i)
      x.v[i] = x.v[i] * norm.scale[i / area] + norm.shift[i / area];
    return x;
  }

  Maps relu(Maps x) {
    for (double& value : x.v) {
      nearest_ = std::min(nearest_, std::fabs(value));
      value = std::max(value, 0.0);
    }
    return x;
  }

  // The first channels of `gradient` += what comes from `above` through a ReLU of `before`.
  static void add_where_open(Maps& gradient, const Maps& above, const Maps& before) {
    for (size_t i = 0; i < above.v.size(); ++i)
      if (before.v[i] > 0) gradient.v[i] += above.v[i];
  }

  // Means of 2x2 pixels; a last odd row or column is left out.
  static Maps pool(const Maps& in) {
    Maps out(in.channels, in.height / 2, in.width / 2);
    for (int64_t c = 0; c < out.channels; ++c)
      for (int64_t y = 0; y < 2 * out.height; ++y)
        for (int64_t x = 0; x < 2 * out.width; ++x) out.at(c, y / 2, x / 2) += in.at(c, y, x) / 4;
    return out;
  }

  static Maps unpool(const Maps& out, const Maps& like) {
    Maps in(out.channels, like.height, like.width);
    for (int64_t c = 0; c < out.channels; ++c)
      for (int64_t y = 0; y < 2 * out.height; ++y)
        for (int64_t x = 0; x < 2 * out.width; ++x) in.at(c, y, x) = out.at(c, y / 2, x / 2) / 4;
    return in;
  }

  const TestNet& net_;
  const DenseNetShape& shape_;
  bool half_;
  double nearest_ = 0;
  std::vector<Maps> ends_;   // what each block has held at its end
  std::vector<Maps> inner_;  // of each bottleneck, before its ReLU
};

}  // namespace fastrobust
