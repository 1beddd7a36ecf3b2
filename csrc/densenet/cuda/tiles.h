// One tile of a convolution over the pixels of a batch: 128 pixels in a run, whatever images they
// belong to, times all outputs. Written for a team (team.h) that knows two things more:
//   columns<kBatch>(rows, columns, prepare, load, use)
//     use(row, column, prepare(column), load(row, column)) for all of them in any order, kBatch
//     loads before the first use
//   Tile<P, kColumns>: sums of the whole team, with clear(), multiply<kTaps>(strip, weights,
//     depth) and store(out, stride)
// Rows lie in shared memory with all that a tile's taps reach; a tap that lies outside of its
// image is left out by a bit, so that no buffer has borders.
#pragma once

#include "densenet/cuda/layout.h"
#include "rows/team.h"

namespace fastrobust {

constexpr int kTileRows = 128;
constexpr int kMostChunk = 64;  // inputs in shared memory at a time

// Pieces of shared memory, or their sizes alone where `memory` is null.
struct Arena {
  unsigned char* memory;
  int64_t used = 0;

  template <typename T>
  FR_HD T* take(int64_t count) {
    unsigned char* begin = memory;
    if (memory) begin += used;
    used += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return reinterpret_cast<T*>(begin);
  }
};

// The pixels of all images of a batch at one size.
struct Frame {
  int64_t pixels;
  int height, width;

  FR_HD bool holds(int64_t pixel) const { return pixel >= 0 && pixel < pixels; }
  FR_HD int64_t image_of(int64_t pixel) const { return pixel / (int64_t{height} * width); }
};

// Channels of a block, [pixels][stride].
template <typename S>
struct Channels {
  S* at;
  int stride;
  Frame frame;
};

// How a kernel uses shared memory; chosen on the host (passes.h).
struct Sharing {
  bool resident = true;    // weights are copied there once
  int chunk = kMostChunk;  // inputs at a time
};

template <Precision P, int kTaps>
struct Product {
  using Unit = Operand<P>;
  const Unit* weights;
  int in, out;

  FR_HD int chunk(const Sharing& sharing) const {
    const int all = (in + kStep - 1) / kStep * kStep;
    return all < sharing.chunk ? all : sharing.chunk;
  }
  FR_HD int64_t size() const {
    return int64_t{(in + kStep - 1) / kStep} * ((out + 15) / 16) * kStep * 16 * kTaps;
  }
  FR_HD int rows(int width) const { return kTileRows + (kTaps == 9 ? 2 * width + 2 : 0); }
};

// Where a product works: its strip with taps, its sums, its weights.
template <Precision P, int kTaps>
struct Bench {
  using Unit = Operand<P>;
  Unit* strip;
  uint16_t* taps;
  float* sums;
  const Unit* weights;
  int stride, chunk;

  FR_HD void lay(Arena& arena, const Product<P, kTaps>& product, const Sharing& sharing, int width,
                 float* shared_sums) {
    chunk = product.chunk(sharing);
    stride = strip_stride<Unit>(chunk);
    strip = arena.take<Unit>(product.rows(width) * stride);
    taps = kTaps == 9 ? arena.take<uint16_t>(kTileRows) : nullptr;
    sums = shared_sums;
    weights = product.weights;
    if (sharing.resident) weights = arena.take<Unit>(product.size());
  }

  FR_HD void lay(Arena& arena, const Product<P, kTaps>& product, const Sharing& sharing,
                 int width) {
    lay(arena, product, sharing, width, arena.take<float>(sums_size(product.out)));
  }

  FR_HD static int64_t sums_size(int out) { return kTileRows * (chunk_of(out) + kPiece); }

  template <typename Team>
  FR_HD void begin(const Team& team, const Product<P, kTaps>& product) const {
    if (weights == product.weights) return;
    constexpr int kUnits = 16 / sizeof(Unit);
    Unit* own = const_cast<Unit*>(weights);
    const Unit* from = product.weights;
    team.each(product.size() / kUnits,
              [=](int64_t i) FR_LAMBDA { copy<16>(own + i * kUnits, from + i * kUnits); });
  }

  // Which taps of every pixel lie in its image.
  template <typename Team>
  FR_HD void mark(const Team& team, const Frame& frame, int64_t first) const {
    uint16_t* out = taps;
    team.each(kTileRows, [=](int64_t row) FR_LAMBDA {
      const int64_t pixel = first + row, line = pixel / frame.width;
      const int x = static_cast<int>(pixel - line * frame.width);
      const int y = static_cast<int>(line % frame.height);
      unsigned inside = 0;
      for (int tap = 0; tap < 9; ++tap) {
        const int v = y + tap / 3 - 1, u = x + tap % 3 - 1;
        if (v >= 0 && v < frame.height && u >= 0 && u < frame.width) inside |= 1u << tap;
      }
      out[row] = frame.holds(pixel) ? inside : 0;
    });
  }

  // The pixel of row 0 of the strip.
  FR_HD int64_t origin(const Frame& frame, int64_t first) const {
    return kTaps == 9 ? first - frame.width - 1 : first;
  }
};

template <int kColumns, Precision P, int kTaps, typename Team, typename Fill, typename Done>
FR_HD void convolve_chunk(const Team& team, const Product<P, kTaps>& product,
                          const Bench<P, kTaps>& bench, int width, int n0,
                          const Operand<P>* weights, const Fill& fill, const Done& done) {
  const Strip<Operand<P>> strip{bench.strip, bench.stride, width, bench.taps};
  typename Team::template Tile<P, kColumns> tile;
  tile.clear();
  for (int k0 = 0; k0 < product.in; k0 += bench.chunk, weights += bench.chunk * kTaps * kColumns) {
    const int depth = product.in - k0 < bench.chunk ? product.in - k0 : bench.chunk;
    if (n0 == 0 || bench.chunk < product.in) {
      team.sync();  // nobody reads the strip any more
      fill(k0, (depth + kStep - 1) / kStep * (kStep / kPiece));
      team.sync();
    }
    tile.template multiply<kTaps>(strip, weights, depth);
  }
  team.sync();  // nobody reads the sums of the chunk before
  tile.store(bench.sums, kColumns + kPiece);
  team.sync();
  done(n0, kColumns / kPiece, kColumns + kPiece);
}

// fill(k, pieces): inputs k to k + 8 * pieces into the strip. done(n, pieces, stride): outputs n to
// n + 8 * pieces stand in the sums, rows of `stride`.
template <Precision P, int kTaps, typename Team, typename Fill, typename Done>
FR_HD void convolve(const Team& team, const Product<P, kTaps>& product,
                    const Bench<P, kTaps>& bench, int width, const Fill& fill, const Done& done) {
  const int steps = (product.in + kStep - 1) / kStep;
  const Operand<P>* weights = bench.weights;
  for (int n0 = 0; n0 < product.out;) {
    const int columns = chunk_of(product.out - n0);
    if (columns == 48)
      convolve_chunk<48>(team, product, bench, width, n0, weights, fill, done);
    else if (columns == 32)
      convolve_chunk<32>(team, product, bench, width, n0, weights, fill, done);
    else
      convolve_chunk<16>(team, product, bench, width, n0, weights, fill, done);
    n0 += columns;
    weights += int64_t{steps} * kStep * kTaps * columns;
  }
}

constexpr Precision kFull = Precision::kFloat32;  // of all that is not a layer

// ---- fills and ends that several kernels share

// Loads on their way at once: registers for 16 channels in float32, 32 in bfloat16.
template <typename S>
inline constexpr int kLoads = 8 / sizeof(S);

// Nothing to prepare for a column.
struct Nothing {};

// ReLU(x scale + shift) as operands.
template <Precision P, typename Team>
FR_HD void fill_normed(const Team& team, const Operand<P>* x, int stride, int channels,
                       const float* scale, const float* shift, const Frame& frame, int64_t origin,
                       int rows, Operand<P>* strip, int strip_stride, int k0, int pieces) {
  using Unit = Operand<P>;
  team.template columns<kLoads<Unit>>(
      rows, pieces,
      [=](int column) FR_LAMBDA {
        const int k = k0 + column * kPiece;
        return ScaleShift{read(scale + k, kPiece), read(shift + k, kPiece)};
      },
      [=](int row, int column) FR_LAMBDA {
        const int64_t pixel = origin + row;
        const int k = k0 + column * kPiece;
        return read(x + (frame.holds(pixel) ? pixel * stride + k : 0),
                    frame.holds(pixel) ? channels - k : 0);
      },
      [=](int row, int column, const ScaleShift& norm, const Piece<Unit>& x) FR_LAMBDA {
        Piece<Unit> out;
        for (int i = 0; i < kPiece; ++i) out.at[i] = operand<P>(relu(norm(to_float(x.at[i]), i)));
        write(strip + row * strip_stride + column * kPiece, out, kPiece);
      });
}

// Numbers as they stand, as operands.
template <Precision P, typename From, typename Team>
FR_HD void fill_plain(const Team& team, const From* from, int stride, int channels,
                      const Frame& frame, int64_t origin, int rows, Operand<P>* strip,
                      int strip_stride, int k0, int pieces) {
  team.template columns<kLoads<From>>(
      rows, pieces, [=](int) FR_LAMBDA { return Nothing{}; },
      [=](int row, int column) FR_LAMBDA {
        const int64_t pixel = origin + row;
        const int k = k0 + column * kPiece;
        return read(from + (frame.holds(pixel) ? pixel * stride + k : 0),
                    frame.holds(pixel) ? channels - k : 0);
      },
      [=](int row, int column, Nothing, const Piece<From>& values) FR_LAMBDA {
        Piece<Operand<P>> out;
        for (int i = 0; i < kPiece; ++i) out.at[i] = operand<P>(to_float(values.at[i]));
        write(strip + row * strip_stride + column * kPiece, out, kPiece);
      });
}

// The sums into `out` [pixels, stride].
template <typename S, typename Team>
FR_HD void append(const Team& team, const float* sums, int sums_stride, int n0, int pieces,
                  int outputs, const Frame& frame, int64_t first, S* out, int stride) {
  team.template columns<2>(
      kTileRows, pieces, [=](int) FR_LAMBDA { return Nothing{}; },
      [=](int row, int column)
          FR_LAMBDA { return read(sums + row * sums_stride + column * kPiece, kPiece); },
      [=](int row, int column, Nothing, const Piece<float>& sum) FR_LAMBDA {
        const int64_t pixel = first + row;
        const int n = n0 + column * kPiece;
        if (!frame.holds(pixel) || n >= outputs) return;
        Piece<S> piece;
        for (int i = 0; i < kPiece; ++i) piece.at[i] = stored<S>(sum.at[i]);
        write(out + pixel * stride + n, piece, outputs - n);
      });
}

}  // namespace fastrobust
