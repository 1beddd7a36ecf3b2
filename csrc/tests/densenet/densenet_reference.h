// A DenseNet in plain loops and double, from the folded tensors alone: the oracle of the engines.
// `rounded` is applied where an engine rounds what it multiplies.
#pragma once

#include <functional>
#include <vector>

#include "densenet/layout.h"

namespace fastrobust {

struct Maps {  // [channels][height][width] of one image
  int64_t channels, height, width;
  std::vector<double> at;

  Maps(int64_t channels, int64_t height, int64_t width)
      : channels(channels), height(height), width(width), at(channels * height * width) {}
  double& operator()(int64_t c, int64_t y, int64_t x) { return at[(c * height + y) * width + x]; }
};

class ReferenceDenseNet {
 public:
  using Round = std::function<double(double)>;

  ReferenceDenseNet(const DenseNetShape& shape, std::vector<float> folded, Round rounded)
      : s_(shape), w_(folded.begin(), folded.end()), rounded_(rounded) {}

  // Outputs of an image x [C, H, W].
  std::vector<double> forward(const float* x) {
    at_ = 0, tape_.clear(), masks_.clear();
    Maps now(s_.in_channels, s_.height, s_.width);
    now.at.assign(x, x + now.at.size());
    now = conv(now, s_.channels[0], 3, false);
    store(now, 0);
    for (size_t b = 0; b < s_.layers.size(); ++b) {
      for (int64_t i = 0; i < s_.layers[b]; ++i) {
        Maps inner = norm_relu(now);
        if (s_.bottleneck) {
          inner = conv(inner, 4 * s_.growth, 1, true);
          const double* bias = w_.data() + at_;
          at_ += inner.channels;
          std::vector<bool> open;
          for (size_t j = 0; j < inner.at.size(); ++j) {
            double& v = inner.at[j];
            v += bias[j / (inner.height * inner.width)];
            open.push_back(v > 0);
            if (v < 0) v = 0;
          }
          masks_.push_back(open);
        }
        const Maps more = conv(inner, s_.growth, 3, true);
        const int64_t before = now.channels;
        now.channels += s_.growth;
        now.at.insert(now.at.end(), more.at.begin(), more.at.end());
        store(now, before);
      }
      now = norm_relu(now);
      if (b + 1 == s_.layers.size()) break;
      Maps half(now.channels, now.height / 2, now.width / 2);
      for (int64_t c = 0; c < half.channels; ++c)
        for (int64_t y = 0; y < half.height; ++y)
          for (int64_t u = 0; u < half.width; ++u)
            half(c, y, u) = (now(c, 2 * y, 2 * u) + now(c, 2 * y, 2 * u + 1) +
                             now(c, 2 * y + 1, 2 * u) + now(c, 2 * y + 1, 2 * u + 1)) /
                            4;
      now = conv(half, s_.channels[b + 1], 1, false);
      store(now, 0);
    }
    const int64_t area = now.height * now.width;
    std::vector<double> z(s_.outputs);
    for (int64_t o = 0; o < s_.outputs; ++o) {
      z[o] = w_[at_ + s_.outputs * now.channels + o];
      for (int64_t c = 0; c < now.channels; ++c)
        for (int64_t p = 0; p < area; ++p)
          z[o] += w_[at_ + o * now.channels + c] * now.at[c * area + p] / area;
    }
    return z;
  }

  // Gradient [C, H, W] of dz . z by the image of the forward before.
  std::vector<double> backward(const float* dz) {
    const int last = static_cast<int>(s_.layers.size()) - 1;
    Maps& end = tape_.back();
    const int64_t area = end.height * end.width;
    Maps grad(end.channels, end.height, end.width);
    for (int64_t c = 0; c < end.channels; ++c)
      for (int64_t p = 0; p < area; ++p)
        for (int64_t o = 0; o < s_.outputs; ++o)
          grad.at[c * area + p] += dz[o] * w_[at_ + o * end.channels + c] / area;
    for (int b = last; b >= 0; --b) {
      if (b < last) {
        const Maps half = conv_back(grad, tape_.back().channels, 1, false);
        grad = Maps(half.channels, s_.height >> b, s_.width >> b);
        for (int64_t c = 0; c < half.channels; ++c)
          for (int64_t y = 0; y < 2 * half.height; ++y)
            for (int64_t u = 0; u < 2 * half.width; ++u)
              grad(c, y, u) = half.at[(c * half.height + y / 2) * half.width + u / 2] / 4;
      }
      norm_relu_back(grad);
      for (int64_t i = 0; i < s_.layers[b]; ++i) {
        const int64_t before = grad.channels - s_.growth;
        Maps own(s_.growth, grad.height, grad.width);
        own.at.assign(grad.at.end() - own.at.size(), grad.at.end());
        grad.at.resize(grad.at.size() - own.at.size());
        grad.channels = before;
        Maps inner = conv_back(own, s_.bottleneck ? 4 * s_.growth : before, 3, true);
        if (s_.bottleneck) {
          at_ -= 4 * s_.growth;
          for (size_t j = 0; j < inner.at.size(); ++j)
            if (!masks_.back()[j]) inner.at[j] = 0;
          masks_.pop_back();
          inner = conv_back(inner, before, 1, true);
        }
        norm_relu_back(inner);
        for (size_t j = 0; j < inner.at.size(); ++j) grad.at[j] += inner.at[j];
      }
    }
    return conv_back(grad, s_.in_channels, 3, false).at;
  }

 private:
  double round_if(bool rounds, double v) const { return rounds ? rounded_(v) : v; }

  // What an engine keeps of channels `first` and on.
  void store(Maps& maps, int64_t first) const {
    if (!keeps_rounded) return;
    for (size_t j = first * maps.height * maps.width; j < maps.at.size(); ++j)
      maps.at[j] = rounded_(maps.at[j]);
  }

  Maps norm_relu(Maps x) {
    tape_.push_back(x);
    const double *scale = w_.data() + at_, *shift = scale + x.channels;
    at_ += 2 * x.channels;
    for (size_t j = 0; j < x.at.size(); ++j) {
      const int64_t c = j / (x.height * x.width);
      const double v = x.at[j] * scale[c] + shift[c];
      x.at[j] = v > 0 ? v : 0;
    }
    return x;
  }

  void norm_relu_back(Maps& grad) {
    const Maps& x = tape_.back();
    at_ -= 2 * x.channels;
    const double *scale = w_.data() + at_, *shift = scale + x.channels;
    for (size_t j = 0; j < x.at.size(); ++j) {
      const int64_t c = j / (x.height * x.width);
      grad.at[j] *= x.at[j] * scale[c] + shift[c] > 0 ? scale[c] : 0;
    }
    tape_.pop_back();
  }

  // Calls f(weight, output index, input index) for every product of a convolution.
  template <typename F>
  void each_product(int64_t out, int64_t in, int64_t H, int64_t W, int size, const double* w,
                    const F& f) const {
    const int r = size / 2;
    for (int64_t o = 0; o < out; ++o)
      for (int64_t i = 0; i < in; ++i)
        for (int v = -r; v <= r; ++v)
          for (int u = -r; u <= r; ++u, ++w)
            for (int64_t y = 0; y < H; ++y)
              for (int64_t x = 0; x < W; ++x)
                if (y + v >= 0 && y + v < H && x + u >= 0 && x + u < W)
                  f(*w, (o * H + y) * W + x, (i * H + y + v) * W + x + u);
  }

  Maps conv(Maps x, int64_t out, int size, bool rounds) {
    Maps y(out, x.height, x.width);
    for (double& v : x.at) v = round_if(rounds, v);
    each_product(
        out, x.channels, x.height, x.width, size, w_.data() + at_,
        [&](double w, int64_t to, int64_t from) { y.at[to] += round_if(rounds, w) * x.at[from]; });
    at_ += out * x.channels * size * size;
    return y;
  }

  Maps conv_back(Maps grad, int64_t in, int size, bool rounds) {
    Maps x(in, grad.height, grad.width);
    at_ -= grad.channels * in * size * size;
    for (double& v : grad.at) v = round_if(rounds, v);
    each_product(grad.channels, in, grad.height, grad.width, size, w_.data() + at_,
                 [&](double w, int64_t to, int64_t from) {
                   x.at[from] += round_if(rounds, w) * grad.at[to];
                 });
    return x;
  }

 public:
  bool keeps_rounded = false;  // channels are kept rounded too

 private:
  DenseNetShape s_;
  std::vector<double> w_;
  Round rounded_;
  size_t at_ = 0;           // the next weight
  std::vector<Maps> tape_;  // in front of each norm
  std::vector<std::vector<bool>> masks_;
};

}  // namespace fastrobust
