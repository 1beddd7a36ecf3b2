// densenet: a DenseNet in eval mode, forward and backward to its input, without autograd.
//
// Here is what both engines share: where every weight, activation and mask lies. The network is
// that of fastrobust/models/densenet.py (Huang et al. 2017, arXiv 1608.06993, section 3) with its
// batch norms written as scale and shift; the one behind a bottleneck is folded into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastrobust {

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// What fastrobust.models.densenet was called with, and the size of the images.
struct DenseNetShape {
  std::vector<int64_t> layers;    // of each block
  std::vector<int64_t> channels;  // that each block begins with
  int64_t growth;                 // channels that a layer adds
  bool bottleneck;
  int64_t in_channels, outputs;
  int64_t height, width;
};

// Where pixels lie in a plane: rows of one block's images, under each other in one run of numbers,
// with one zero between rows and a row of zeros between images. A 3x3 convolution then reads the
// run at nine fixed offsets, whatever the width; what it computes at the zeros is thrown away.
//
// The matrix unit is slow where what it loads lies across cache lines. With `tiles` every row
// begins on one instead, no zero need follow it, and a 3x3 convolution reads three copies of a
// plane, moved by a pixel to the right, not at all, and to the left, with the zeros that belong
// there. Small images stand side by side.
struct Plane {
  int64_t height, width, images;
  int64_t pitch;    // from a row to the next
  int64_t abreast;  // images side by side
  int64_t span;     // positions that are computed: all rows, in whole vectors
  int64_t lead;     // zeros before position 0 of a plane that a 3x3 convolution reads
  int64_t stride;   // from one such plane to the next, an odd number of cache lines
  int64_t packed;   // from one plane to the next where nothing lies around it

  Plane(int64_t height, int64_t width, int64_t images, bool tiles)
      : height(height),
        width(width),
        images(images),
        pitch(tiles ? round_up(width, 16) : width + 1),
        abreast(tiles ? pitch / width : 1) {
    span = reach(images);
    lead = round_up(pitch + 1, 16);
    stride = lead + span + lead;
    stride += stride / 16 % 2 == 0 ? 16 : 0;  // even: planes would compete for cache sets
    packed = span + (span / 16 % 2 == 0 ? 16 : 0);
  }

  // Of `span` what holds the first `count` images.
  int64_t reach(int64_t count) const {
    const int64_t rows = (count + abreast - 1) / abreast;
    return round_up((rows * (height + 1) - 1) * pitch, 16);
  }

  int64_t at(int64_t image, int64_t y) const {
    return (image / abreast * (height + 1) + y) * pitch + image % abreast * width;
  }

  // A bit for each position: 1 at columns [from, to) of the images.
  std::vector<uint8_t> columns(int64_t from, int64_t to) const {
    std::vector<uint8_t> bits(span / 8);
    for (int64_t i = 0; i < images; ++i)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t p = at(i, y) + from; p < at(i, y) + to; ++p) bits[p / 8] |= 1 << p % 8;
    return bits;
  }
};

// What a convolution multiplies. In pairs, two inputs in bfloat16 share 32 bits; tiles are pairs in
// the order of a matrix unit.
enum class Operands { kFloats, kPairs, kTiles };

// A convolution, 1x1 or 3x3, in groups of 12 outputs and a last one of 4, 8 or 12:
// [group][in][tap][output of the group]. In tiles, for each row of taps:
// [16 outputs][row][16 inputs][output of the tile][input of the tile], where the inputs of a 3x3
// are those of its three columns.
struct ConvWeights {
  int64_t in = 0, out = 0, taps = 0;
  int64_t units = 0;                     // inputs, or pairs of them
  int64_t forward = 0;                   // where the weights begin
  int64_t backward = 0, back_units = 0;  // the same of the transposed convolution

  static constexpr int64_t kTile = 16;

  static int64_t padded(int64_t out) { return out / 12 * 12 + round_up(out % 12, 4); }

  // Planes that tiles of `units` inputs read, the columns of a 3x3 one after the other.
  static int64_t planes(int64_t units, int64_t taps) {
    return round_up(taps == 9 ? 3 * units : units, kTile);
  }

  static int64_t size(int64_t units, int64_t taps, int64_t out, Operands operands) {
    if (operands != Operands::kTiles) return units * taps * padded(out);
    return round_up(out, kTile) * (taps == 9 ? 3 : 1) * planes(units, taps);
  }
};

// Batch norm: x * scale + shift.
struct Affine {
  int64_t scale = 0, shift = 0;  // where they begin
};

struct DenseLayer {
  int64_t channels;  // that it reads
  Affine norm;
  ConvWeights squeeze;  // 1x1; out = 0 without a bottleneck
  int64_t bias;         // of squeeze
  ConvWeights grow;     // 3x3
  int64_t mask;         // in the state: a bit for each output of squeeze, 1 where it is positive
};

struct DenseBlock {
  Plane plane;
  int64_t channels;  // at its end
  std::vector<DenseLayer> layers;
  Affine norm;             // at its end
  ConvWeights transition;  // 1x1; out = 0 at the last block
  int64_t x;               // in the state: [channels, plane.packed] what the layers have appended
  // [plane.span / 8] a bit for each position: 1 at pixels, at those with another to their left, and
  // at those with another to their right.
  std::vector<uint8_t> valid, has_left, has_right;
};

// Where everything lies, in floats. The weights stand in the order of this constructor, each on a
// cache line; fastrobust/ops/densenet.py writes them.
struct DenseNetPlan {
  DenseNetShape shape;
  int64_t images;     // that one thread takes through the network at once
  Operands operands;  // in the layers of the blocks; everything else multiplies floats
  ConvWeights stem;
  std::vector<DenseBlock> blocks;
  int64_t linear, linear_back, linear_bias;  // [C, d], [d, C], [d]
  int64_t weights_size = 0;                  // of all of them
  int64_t state_size = 0;                    // what a backward needs of one group of images
  int64_t hidden = 0;                        // widest bottleneck
  int64_t channels = 0;                      // most channels of a block

  DenseNetPlan(const DenseNetShape& shape, int64_t images, Operands operands);

  bool tiles() const { return operands == Operands::kTiles; }

  const DenseBlock& last() const { return blocks.back(); }

 private:
  int64_t take(int64_t size) {
    const int64_t begin = weights_size;
    weights_size += round_up(size, 16);
    return begin;
  }
  int64_t keep(int64_t size) {
    const int64_t begin = state_size;
    state_size += round_up(size, 16);
    return begin;
  }
  Affine affine(int64_t channels) { return {take(channels), take(channels)}; }
  ConvWeights convolution(int64_t in, int64_t out, int64_t taps, Operands kind);
};

inline ConvWeights DenseNetPlan::convolution(int64_t in, int64_t out, int64_t taps, Operands kind) {
  const bool floats = kind == Operands::kFloats;
  ConvWeights c{in, out, taps};
  c.units = floats ? in : (in + 1) / 2;
  c.back_units = floats ? out : (out + 1) / 2;
  c.forward = take(ConvWeights::size(c.units, taps, out, kind));
  c.backward = take(ConvWeights::size(c.back_units, taps, in, kind));
  return c;
}

inline DenseNetPlan::DenseNetPlan(const DenseNetShape& wish, int64_t images, Operands operands)
    : shape(wish), images(images), operands(operands) {
  stem = convolution(shape.in_channels, shape.channels[0], 9, Operands::kFloats);
  for (size_t b = 0; b < shape.layers.size(); ++b) {
    int64_t now = shape.channels[b];
    DenseBlock block{
        {shape.height >> b, shape.width >> b, images, tiles()}, 0, {}, {}, {}, 0, {}, {}, {}};
    const Plane& plane = block.plane;
    for (int64_t i = 0; i < shape.layers[b]; ++i, now += shape.growth) {
      DenseLayer layer{now, affine(now), {}, 0, {}, 0};
      int64_t width = now;
      if (shape.bottleneck) {
        width = 4 * shape.growth;
        layer.squeeze = convolution(now, width, 1, operands);
        layer.bias = take(width);
        layer.mask = keep(width * plane.span / 32);
        hidden = width;
      }
      layer.grow = convolution(width, shape.growth, 9, operands);
      block.layers.push_back(layer);
    }
    block.channels = now;
    channels = now > channels ? now : channels;
    block.norm = affine(now);
    if (b + 1 < shape.layers.size())
      block.transition = convolution(now, shape.channels[b + 1], 1, Operands::kFloats);
    block.x = keep(now * plane.packed + 16);  // a row is read in whole vectors
    block.valid = plane.columns(0, plane.width);
    block.has_left = plane.columns(1, plane.width);
    block.has_right = plane.columns(0, plane.width - 1);
    blocks.push_back(block);
  }
  linear = take(last().channels * shape.outputs);
  linear_back = take(last().channels * shape.outputs);
  linear_bias = take(shape.outputs);
}

// A forward (z given), a backward (dz given) or both, of N images.
struct DenseNetArgs {
  const DenseNetPlan* plan;
  const float* weights;  // [plan.weights_size]
  const float* x;        // [N, C, H, W] images
  float* z;              // [N, d] outputs, or null
  float* state;          // [groups, plan.state_size] from forward to backward, or null for none
  const float* dz;       // [N, d] gradient by the outputs, or null
  float* grad;           // [N, C, H, W] gradient by the images
  int64_t N;
};

// Working memory of a thread, in one piece.
struct Scratch {
  float* input;     // [in_channels, stride] image, then its gradient; in tiles three copies
  float* hidden;    // [width, stride] what a 3x3 convolution reads, or three copies of half as many
  float* gradient;  // [channels, stride] by what a block holds
  float* pooled;    // [channels, stride of the block behind]
  float* strip;     // [channels or width, 32], or half as many by 64, before a 1x1 convolution
  float* row;       // [width of an image]
  float* features;  // [channels]

  Scratch(const DenseNetPlan& plan, float* memory) { lay(plan, memory); }

  // Floats for one thread, without the state that a forward alone needs too.
  static int64_t size(const DenseNetPlan& plan) {
    return Scratch(plan, nullptr).lay(plan, nullptr);
  }

 private:
  int64_t lay(const DenseNetPlan& plan, float* memory) {
    int64_t area = 0, behind = 0, used = 0;
    for (const DenseBlock& block : plan.blocks) {
      const int64_t stride = block.plane.stride;
      area = area > stride ? area : stride;
      if (&block != &plan.blocks[0]) behind = behind > stride ? behind : stride;
    }
    const int64_t width = plan.hidden > 0 ? plan.hidden : plan.channels;
    const int64_t tall = plan.channels > width ? plan.channels : width;
    auto take = [&](float*& piece, int64_t size) {
      piece = memory + used;
      used += round_up(size, 16) + 16;
    };
    take(input, plan.shape.in_channels * (plan.tiles() ? 3 : 1) * area);
    const int64_t stem = 3 * plan.shape.channels[0], read = ConvWeights::planes((width + 1) / 2, 9);
    take(hidden, (plan.tiles() ? (read > stem ? read : stem) : width) * area);
    take(gradient, plan.channels * area);
    take(pooled, plan.channels * behind);
    take(strip, round_up(tall, 32) * 32);
    take(row, plan.shape.width + 16);
    take(features, plan.channels);
    return used;
  }
};

// Groups [begin, end) of plan.images images each, by the CPU's best instructions; `scratch` holds
// Scratch::size(plan) floats, and plan.state_size more where args.state is null.
void densenet_cpu(const DenseNetArgs& args, int64_t begin, int64_t end, float* scratch);

}  // namespace fastrobust
