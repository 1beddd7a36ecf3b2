// A DenseNet of random folded weights, and those weights in the order in which the engine reads
// them. Written from fastrobust/ops/densenet.py, which documents both.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "densenet/layout.h"

namespace fastrobust {

struct TestConv {
  int64_t out = 0, in = 0, side = 1;
  std::vector<float> w;  // [out, in, side, side]
};

struct TestNorm {
  std::vector<float> scale, shift;
};

struct TestLayer {
  TestNorm norm;
  TestConv squeeze;  // out = 0 without a bottleneck
  std::vector<float> bias;
  TestConv grow;
};

struct TestBlock {
  std::vector<TestLayer> layers;
  TestNorm norm;
  TestConv transition;  // out = 0 at the last block
};

struct TestNet {
  TestConv stem;
  std::vector<TestBlock> blocks;
  TestConv linear;
  std::vector<float> bias;
};

// Uniform numbers with mean 0, the same with every standard library.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  std::vector<float> operator()(int64_t count, double deviation) {
    std::vector<float> values(count);
    for (float& value : values)
      value = static_cast<float>((engine_() / 4294967295.0 - 0.5) * std::sqrt(12) * deviation);
    return values;
  }

  // Kaiming: what follows a ReLU keeps its size.
  TestConv conv(int64_t out, int64_t in, int64_t side) {
    const int64_t terms = in * side * side;
    return {out, in, side, (*this)(out * terms, std::sqrt(2.0 / terms))};
  }

  // Every fourth scale or so is negative.
  TestNorm norm(int64_t channels) {
    TestNorm norm{(*this)(channels, 0.2), (*this)(channels, 0.4)};
    for (float& scale : norm.scale) scale = (engine_() % 4 ? 1 : -1) + scale;
    return norm;
  }

 private:
  std::mt19937 engine_;
};

inline TestNet random_net(const DenseNetShape& shape, unsigned seed) {
  Random random(seed);
  TestNet net{random.conv(shape.channels[0], shape.in_channels, 3), {}, {}, {}};
  for (size_t b = 0; b < shape.layers.size(); ++b) {
    int64_t channels = shape.channels[b];
    TestBlock block;
    for (int64_t i = 0; i < shape.layers[b]; ++i, channels += shape.growth) {
      TestLayer layer{random.norm(channels), {}, {}, {}};
      int64_t width = channels;
      if (shape.bottleneck) {
        width = 4 * shape.growth;
        layer.squeeze = random.conv(width, channels, 1);
        layer.bias = random(width, 0.4);
      }
      layer.grow = random.conv(shape.growth, width, 3);
      block.layers.push_back(layer);
    }
    block.norm = random.norm(channels);
    if (b + 1 < shape.layers.size())
      block.transition = random.conv(shape.channels[b + 1], channels, 1);
    else
      net.linear = random.conv(shape.outputs, channels, 1);
    net.blocks.push_back(block);
  }
  net.bias = random(shape.outputs, 0.4);
  return net;
}

// The nearest bfloat16, the even one of two; finite values only.
inline float bfloat16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  bits += 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<float>(bits & 0xffff0000);
}

// The convolution behind a norm, together with the norm's scale: a gradient goes through both.
inline TestConv scaled(TestConv conv, const std::vector<float>& scale) {
  const int64_t area = conv.side * conv.side;
  for (size_t i = 0; i < conv.w.size(); ++i) conv.w[i] *= scale[i / area % conv.in];
  return conv;
}

// Appends tensors as the engine reads them.
struct Packer {
  std::vector<float> all;

  void tensor(const std::vector<float>& values) {
    all.insert(all.end(), values.begin(), values.end());
    all.resize(round_up(all.size(), 16));
  }

  void norm(const TestNorm& norm) {
    tensor(norm.scale);
    tensor(norm.shift);
  }

  static float weight(const TestConv& conv, int64_t o, int64_t input, int64_t tap) {
    const bool there = o < conv.out && input < conv.in;
    return there ? conv.w[(o * conv.in + input) * conv.side * conv.side + tap] : 0.f;
  }

  static float pair(const TestConv& conv, int64_t o, int64_t input, int64_t tap) {
    auto upper = [&](int64_t i) {
      return std::bit_cast<uint32_t>(bfloat16(weight(conv, o, i, tap))) >> 16;
    };
    return std::bit_cast<float>(upper(input) | upper(input + 1) << 16);
  }

  void one_way(const TestConv& conv, Operands kind) {
    std::vector<float> packed;
    if (kind == Operands::kTiles)
      tiles(conv, packed);
    else
      groups(conv, kind == Operands::kPairs, packed);
    tensor(packed);
  }

  // [group of 12 outputs][input or pair][tap][output of the group], the last group of 4, 8 or 12.
  static void groups(const TestConv& conv, bool half, std::vector<float>& packed) {
    for (int64_t first = 0; first < conv.out; first += 12)
      for (int64_t i = 0; i < conv.in; i += half ? 2 : 1)
        for (int64_t tap = 0; tap < conv.side * conv.side; ++tap)
          for (int64_t o = first; o < std::min(first + 12, round_up(conv.out, 4)); ++o)
            packed.push_back(half ? pair(conv, o, i, tap) : weight(conv, o, i, tap));
  }

  // [16 outputs][row of taps][16 pairs][output][pair], pairs in the order [column of taps][pair].
  static void tiles(const TestConv& conv, std::vector<float>& packed) {
    const int64_t pairs = (conv.in + 1) / 2, inputs = pairs * conv.side;
    for (int64_t first = 0; first < conv.out; first += 16)
      for (int64_t y = 0; y < conv.side; ++y)
        for (int64_t begin = 0; begin < inputs; begin += 16)
          for (int64_t o = first; o < first + 16; ++o)
            for (int64_t i = begin; i < begin + 16; ++i)
              packed.push_back(i < inputs ? pair(conv, o, i % pairs * 2, y * conv.side + i / pairs)
                                          : 0.f);
  }

  // A convolution forward, then `back`, the same or the scaled one, transposed: inputs and outputs
  // change places and the taps are read from the last.
  void conv(const TestConv& forward, const TestConv& back, Operands kind) {
    one_way(forward, kind);
    const int64_t area = back.side * back.side;
    TestConv turned{back.in, back.out, back.side, std::vector<float>(back.w.size())};
    for (int64_t o = 0; o < back.out; ++o)
      for (int64_t i = 0; i < back.in; ++i)
        for (int64_t tap = 0; tap < area; ++tap)
          turned.w[(i * back.out + o) * area + area - 1 - tap] =
              back.w[(o * back.in + i) * area + tap];
    one_way(turned, kind);
  }
};

inline std::vector<float> pack(const TestNet& net, Operands kind) {
  Packer packer;
  packer.conv(net.stem, net.stem, Operands::kFloats);
  for (const TestBlock& block : net.blocks) {
    for (const TestLayer& layer : block.layers) {
      const bool bottleneck = layer.squeeze.out > 0;
      const TestConv& first = bottleneck ? layer.squeeze : layer.grow;
      packer.norm(layer.norm);
      packer.conv(first, scaled(first, layer.norm.scale), kind);
      if (!bottleneck) continue;
      packer.tensor(layer.bias);
      packer.conv(layer.grow, layer.grow, kind);
    }
    packer.norm(block.norm);
    if (block.transition.out > 0)
      packer.conv(block.transition, scaled(block.transition, block.norm.scale), Operands::kFloats);
  }
  const int64_t channels = net.linear.in, d = net.linear.out;
  std::vector<float> turned(channels * d);
  for (int64_t o = 0; o < d; ++o)
    for (int64_t c = 0; c < channels; ++c) turned[c * d + o] = net.linear.w[o * channels + c];
  packer.tensor(turned);
  packer.tensor(net.linear.w);
  packer.tensor(net.bias);
  return packer.all;
}

}  // namespace fastrobust
