// Where everything of a DenseNet lies on a GPU: packed weights, what a forward keeps for its
// backwards, and working memory. All offsets are bytes; those of state and scratch are bytes of
// one image and count times the number of images, so that a buffer holds the whole batch:
// [N H W pixels][channels], the channels padded to whole pieces.
#pragma once

#include <cstring>
#include <vector>

#include "densenet/cuda/fragments.h"
#include "densenet/layout.h"

namespace fastrobust {

// Both directions of a convolution, each in chunks of up to 48 outputs:
// [chunk][step of 16 inputs][tap][packed_at].
struct PackedConv {
  int in = 0, out = 0, taps = 0;
  int64_t forward = 0, backward = 0;
};

struct CudaLayer {
  int channels;  // that it reads
  int64_t scale, shift;
  PackedConv squeeze;  // out = 0 without a bottleneck
  int64_t bias;        // [squeeze.out]
  PackedConv grow;
  int64_t mask;  // in the state: [pixels][mask_bytes] a bit for each positive output of squeeze
};

struct CudaBlock {
  int height, width;
  int channels;  // at its end
  int stride;    // from a pixel to the next in x and gradient
  std::vector<CudaLayer> layers;
  int64_t scale, shift;
  PackedConv transition;  // out = 0 at the last block
  int64_t x;              // in the state: channels in bfloat16 at that precision, else float32
  int64_t gradient;       // in the scratch: float32

  int64_t pixels() const { return int64_t{height} * width; }
};

struct DenseNetCudaPlan {
  DenseNetShape shape;
  Precision precision;
  PackedConv stem;
  std::vector<CudaBlock> blocks;
  int64_t linear, linear_bias;  // [d, C], [d]
  int64_t hidden = 0;           // in the scratch: what a bottleneck hands on
  int hidden_stride = 0;        // its channels, in whole steps
  int64_t folded_size = 0;      // floats that `pack` takes
  int64_t weights_size = 0;     // bytes of the packed weights
  int64_t state_size = 0;       // bytes of one image
  int64_t scratch_size = 0;     // bytes of one image

  DenseNetCudaPlan(const DenseNetShape& shape, Precision precision);

  int unit() const { return precision == Precision::kBfloat16 ? 2 : 4; }
  int mask_bytes() const { return (4 * static_cast<int>(shape.growth) + 7) / 8; }

  // Folded tensors to the layout of the GPU, on the host. `folded` holds, without gaps,
  //   stem [channels, in, 3, 3];
  //   of every layer: scale, shift [c], with a bottleneck w1 [4k, c] and bias [4k] that hold the
  //     batch norm behind it, w2 [k, 4k or c, 3, 3];
  //   after the layers of a block: scale, shift [c] and before another block the transition's
  //     [kept, c];
  //   linear [d, c] and its bias [d].
  void pack(const float* folded, void* weights) const;

  // Bytes that a forward (with what it keeps) and a backward move per image, each buffer counted
  // as often as a kernel goes through it; halos and weights are left to the caches.
  int64_t forward_bytes() const;
  int64_t backward_bytes() const;

 private:
  static int64_t grow_by(int64_t& total, int64_t bytes) {
    const int64_t begin = total;
    total += round_up(bytes, 16);
    return begin;
  }
  int64_t vector(int64_t size) {
    folded_size += size;
    return grow_by(weights_size, round_up(size, kStep) * 4);
  }
  PackedConv convolution(int64_t in, int64_t out, int taps, int unit) {
    PackedConv c{static_cast<int>(in), static_cast<int>(out), taps};
    const int64_t size = round_up(in, kStep) * round_up(out, kStep) * taps * unit;
    folded_size += in * out * taps;
    c.forward = grow_by(weights_size, size);
    c.backward = grow_by(weights_size, size);
    return c;
  }
};

inline DenseNetCudaPlan::DenseNetCudaPlan(const DenseNetShape& wish, Precision precision)
    : shape(wish), precision(precision) {
  stem = convolution(shape.in_channels, shape.channels[0], 9, 4);
  const int64_t width = 4 * shape.growth;
  for (size_t b = 0; b < shape.layers.size(); ++b) {
    CudaBlock block{};
    block.height = static_cast<int>(shape.height >> b);
    block.width = static_cast<int>(shape.width >> b);
    int64_t now = shape.channels[b];
    for (int64_t i = 0; i < shape.layers[b]; ++i, now += shape.growth) {
      CudaLayer layer{};
      layer.channels = static_cast<int>(now);
      layer.scale = vector(now);
      layer.shift = vector(now);
      if (shape.bottleneck) {
        layer.squeeze = convolution(now, width, 1, unit());
        layer.bias = vector(width);
        layer.mask = grow_by(state_size, block.pixels() * mask_bytes());
      }
      layer.grow = convolution(shape.bottleneck ? width : now, shape.growth, 9, unit());
      block.layers.push_back(layer);
    }
    block.channels = static_cast<int>(now);
    block.stride = static_cast<int>(round_up(now, kPiece));
    block.scale = vector(now);
    block.shift = vector(now);
    if (b + 1 < shape.layers.size())
      block.transition = convolution(now, shape.channels[b + 1], 1, 4);
    block.x = grow_by(state_size, block.pixels() * block.stride * unit());
    block.gradient = grow_by(scratch_size, block.pixels() * block.stride * 4);
    blocks.push_back(block);
  }
  linear = vector(blocks.back().channels * shape.outputs);
  linear_bias = vector(shape.outputs);
  if (shape.bottleneck) {
    hidden_stride = static_cast<int>(round_up(width, kStep));
    hidden = grow_by(scratch_size, blocks[0].pixels() * hidden_stride * unit());
  }
}

// Outputs of the next chunk of a convolution, where `rest` are left.
FR_HD constexpr int chunk_of(int rest) { return rest > 32 ? 48 : rest > 16 ? 32 : 16; }

namespace packing {

// weight(k, n, tap) of a convolution with K inputs and N outputs.
template <Precision P, typename Weight>
void conv(int K, int N, int taps, const Weight& weight, unsigned char* memory) {
  using Unit = Operand<P>;
  Unit* out = reinterpret_cast<Unit*>(memory);
  for (int n0 = 0; n0 < N;) {
    const int columns = chunk_of(N - n0);
    for (int k0 = 0; k0 < K; k0 += kStep)
      for (int tap = 0; tap < taps; ++tap, out += kStep * columns)
        for (int k = 0; k < kStep; ++k)
          for (int n = 0; n < columns; ++n) {
            const bool real = k0 + k < K && n0 + n < N;
            const Unit unit = operand<P>(real ? weight(k0 + k, n0 + n, tap) : 0.f);
            std::memcpy(out + packed_at<P>(k, n, columns), &unit, sizeof unit);
          }
    n0 += columns;
  }
}

template <Precision P>
void both(const PackedConv& c, const float* w, unsigned char* memory) {  // w [out, in, taps]
  const auto at = [&](int o, int i, int tap) { return w[(int64_t{o} * c.in + i) * c.taps + tap]; };
  conv<P>(
      c.in, c.out, c.taps, [&](int i, int o, int tap) { return at(o, i, tap); },
      memory + c.forward);
  conv<P>(
      c.out, c.in, c.taps, [&](int o, int i, int tap) { return at(o, i, c.taps - 1 - tap); },
      memory + c.backward);
}

}  // namespace packing

inline void DenseNetCudaPlan::pack(const float* folded, void* weights) const {
  unsigned char* memory = static_cast<unsigned char*>(weights);
  std::memset(memory, 0, weights_size);
  const auto vector = [&](int64_t at, int64_t size) {
    std::memcpy(memory + at, folded, size * sizeof(float));
    folded += size;
  };
  const auto convolution = [&](const PackedConv& c, Precision p) {
    if (p == Precision::kFloat32) packing::both<Precision::kFloat32>(c, folded, memory);
    if (p == Precision::kTf32) packing::both<Precision::kTf32>(c, folded, memory);
    if (p == Precision::kBfloat16) packing::both<Precision::kBfloat16>(c, folded, memory);
    folded += int64_t{c.in} * c.out * c.taps;
  };
  convolution(stem, Precision::kFloat32);
  for (const CudaBlock& block : blocks) {
    for (const CudaLayer& layer : block.layers) {
      vector(layer.scale, layer.channels);
      vector(layer.shift, layer.channels);
      if (layer.squeeze.out > 0) {
        convolution(layer.squeeze, precision);
        vector(layer.bias, layer.squeeze.out);
      }
      convolution(layer.grow, precision);
    }
    vector(block.scale, block.channels);
    vector(block.shift, block.channels);
    if (block.transition.out > 0) convolution(block.transition, Precision::kFloat32);
  }
  vector(linear, shape.outputs * blocks.back().channels);
  vector(linear_bias, shape.outputs);
}

inline int64_t DenseNetCudaPlan::forward_bytes() const {
  const int64_t u = unit(), k = shape.growth, image = shape.in_channels * blocks[0].pixels();
  int64_t bytes = image * 4 + blocks[0].pixels() * stem.out * u + shape.outputs * 4;
  for (const CudaBlock& block : blocks) {
    int64_t pixel = 0;
    for (const CudaLayer& layer : block.layers) {
      pixel += layer.channels * u + k * u;
      if (layer.squeeze.out > 0) pixel += 2 * layer.squeeze.out * u + mask_bytes();
    }
    pixel += block.channels * u;
    bytes += block.pixels() * pixel + block.pixels() / 4 * block.transition.out * u;
  }
  return bytes;
}

inline int64_t DenseNetCudaPlan::backward_bytes() const {
  const int64_t u = unit(), k = shape.growth, image = shape.in_channels * blocks[0].pixels();
  int64_t bytes = image * 4 + blocks[0].pixels() * stem.out * 4 + shape.outputs * 4;
  for (const CudaBlock& block : blocks) {
    int64_t pixel = block.channels * (u + 4);  // what the end of the block hands back
    for (const CudaLayer& layer : block.layers) {
      pixel += k * 4 + layer.channels * (u + 8);
      if (layer.squeeze.out > 0) pixel += mask_bytes();
    }
    bytes += block.pixels() * pixel + block.pixels() / 4 * block.transition.out * 4;
  }
  return bytes;
}

// All pointers but the plan are to memory of the GPU, which the caller owns, 16 bytes aligned.
struct DenseNetCudaArgs {
  const DenseNetCudaPlan* plan;
  const unsigned char* weights;  // [plan.weights_size] bytes, packed by plan.pack
  const float* x;                // [N, C, H, W] images; of a forward
  float* z;                      // [N, d] outputs, or null for no forward
  unsigned char* state;          // [N * plan.state_size] bytes, from a forward to its backwards
  unsigned char* scratch;        // [N * plan.scratch_size] bytes, free between the calls
  bool keep;                     // whether a forward writes what a backward needs
  const float* dz;               // [N, d] gradient by the outputs, or null for no backward
  float* grad;                   // [N, C, H, W] gradient by the images
  int64_t N;
};

}  // namespace fastrobust
