// A product of 32 pixels and up to 48 outputs as the 32 lanes of a warp hold it: which numbers a
// lane reads from its operands, and where its sums belong.
//
// Tensor cores take the layouts of mma.m16n8k16 (bfloat16) and mma.m16n8k8 (TF32): PTX ISA,
// section "Matrix Fragments for mma". A lane is g = lane / 4 and q = lane % 4 there. In float32
// a lane takes four rows and a quarter of the columns. Everything advances by 16 inputs, a step:
// one multiplication in bfloat16, two in TF32, sixteen in float32.
#pragma once

#include "densenet/cuda/units.h"

namespace fastrobust {

constexpr int kStep = 16;      // inputs
constexpr int kWarpRows = 32;  // pixels of a warp: g, g + 8, g + 16, g + 24 of each lane
constexpr int kRowsOfLane = 4;
constexpr int kMostColumns = 48;

template <Precision P>
inline constexpr int kHalves = P == Precision::kTf32 ? 2 : 1;  // multiplications in a step
template <Precision P>
inline constexpr int kLeftWords = 4 * kHalves<P>;  // registers of 16 rows
template <Precision P>
inline constexpr int kRightWords = 2 * kHalves<P>;  // registers of 8 columns

// Where weight (k, n) of a step stands among its 16 x columns units: each lane finds what it needs
// of two (bfloat16) or one (TF32) groups of 8 columns in 16 bytes.
template <Precision P>
constexpr int packed_at(int k, int n, int columns) {
  const int g = n % 8, group = n / 8;
  if constexpr (P == Precision::kBfloat16) {
    const int lane = g * 4 + k % 8 / 2, word = group % 2 * 2 + k / 8;
    return ((group / 2 * 32 + lane) * 4 + word) * 2 + k % 2;
  } else if constexpr (P == Precision::kTf32) {
    const int lane = g * 4 + k % 4;
    return (group * 32 + lane) * 4 + k / 4;
  } else {
    return k * columns + n;
  }
}

// Rows of the left operand in shared memory. A row is `stride` units, 16 bytes more than a multiple
// of 32: what a warp reads at once then lies in different banks.
template <typename Unit>
struct Strip {
  const Unit* data;
  int stride;
  int width;             // of the image, to go from a tap to the next
  const uint16_t* taps;  // [rows] which of the nine taps lie in the image
};

template <typename Unit>
FR_HD constexpr int strip_stride(int channels) {
  return (channels + kStep - 1) / kStep * kStep + 16 / static_cast<int>(sizeof(Unit));
}

// A lane's four rows at a tap; null where the tap lies outside of the image.
template <typename Unit>
struct Rows {
  const Unit* at[kRowsOfLane];
};

template <int kTaps, typename Unit>
FR_HD Rows<Unit> rows_of(const Strip<Unit>& strip, const unsigned (&taps)[kRowsOfLane], int row,
                         int tap, int k) {
  const Unit* first = strip.data + row * strip.stride + k;
  if (kTaps == 9) first += (tap / 3 * strip.width + tap % 3) * strip.stride;
  Rows<Unit> rows;
  for (int i = 0; i < kRowsOfLane; ++i) {
    const bool inside = kTaps == 1 || (taps[i] >> tap & 1);
    rows.at[i] = inside ? first + i * 8 * strip.stride : nullptr;
  }
  return rows;
}

template <typename Unit>
FR_HD uint32_t word_at(const Unit* row, int unit) {
  uint32_t word = 0;
  if (row) {
#ifdef __CUDA_ARCH__
    word = *reinterpret_cast<const uint32_t*>(row + unit);
#else
    __builtin_memcpy(&word, row + unit, sizeof word);
#endif
  }
  return word;
}

// Registers of the left operand for rows 16 m to 16 m + 15 of the warp.
template <Precision P>
struct Left {
  uint32_t word[2][kLeftWords<P>];

  FR_HD Left(int lane, const Rows<Operand<P>>& rows) {
    const int q = lane % 4;
    for (int m = 0; m < 2; ++m)
      for (int i = 0; i < kLeftWords<P>; ++i) {
        const int unit = P == Precision::kBfloat16 ? 2 * q + 8 * (i / 2) : q + 4 * (i / 2);
        word[m][i] = word_at(rows.at[2 * m + i % 2], unit);
      }
  }
};

// Registers of the right operand for all groups of 8 columns.
template <Precision P, int kColumns>
struct Right {
  alignas(16) uint32_t word[kColumns / 8 * kRightWords<P>];

  FR_HD Right(int lane, const Operand<P>* weights) {
    constexpr int kUnits = 16 / sizeof(Operand<P>);
    for (int i = 0; i < kColumns / 8 * kRightWords<P> / 4; ++i)
      copy<16>(word + 4 * i, weights + (i * 32 + lane) * kUnits);
  }
};

// A lane's sums: mma keeps [16 rows][8 columns][4], float32 [row of the lane][a quarter].
template <int kColumns>
struct Sums {
  alignas(16) float at[kColumns];

  FR_HD void clear() {
    for (int i = 0; i < kColumns; ++i) at[i] = 0;
  }

  FR_HD float* block(int m, int group) { return at + m * (kColumns / 2) + group * 4; }
};

// float32: `depth` inputs, in twos: fours would need more registers than there are.
template <int kColumns>
FR_HD void multiply_float(int lane, const Rows<float>& rows, const float* weights, int depth,
                          Sums<kColumns>& sums) {
  constexpr int kQuads = kColumns / 16;
  FR_UNROLL(1)
  for (int k = 0; k < depth; k += 2) {
    alignas(16) float left[kRowsOfLane][2];
    for (int i = 0; i < kRowsOfLane; ++i) {
      left[i][0] = left[i][1] = 0;
      if (rows.at[i]) copy<8>(left[i], rows.at[i] + k);
    }
    for (int j = 0; j < 2; ++j)
      for (int quad = 0; quad < kQuads; ++quad) {
        alignas(16) float right[4];
        copy<16>(right, weights + (k + j) * kColumns + quad * 16 + lane % 4 * 4);
        for (int i = 0; i < kRowsOfLane; ++i)
          for (int n = 0; n < 4; ++n) {
            float& sum = sums.at[(i * kQuads + quad) * 4 + n];
            sum = fused(left[i][j], right[n], sum);
          }
      }
  }
}

// Sums into rows of `stride` floats, from the warp's first row on.
template <Precision P, int kColumns>
FR_HD void store_sums(int lane, Sums<kColumns>& sums, float* out, int stride) {
  const int g = lane / 4, q = lane % 4;
  if constexpr (P == Precision::kFloat32) {
    for (int i = 0; i < kRowsOfLane; ++i)
      for (int quad = 0; quad < kColumns / 16; ++quad)
        copy<16>(out + (g + 8 * i) * stride + quad * 16 + q * 4,
                 sums.at + (i * (kColumns / 16) + quad) * 4);
  } else {
    for (int i = 0; i < kRowsOfLane; ++i)
      for (int group = 0; group < kColumns / 8; ++group)
        copy<8>(out + (g + 8 * i) * stride + group * 8 + q * 2,
                sums.block(i / 2, group) + i % 2 * 2);
  }
}

// Calls step(weights, tap, k, inputs left) for every step and tap in the order of the weights.
template <Precision P, int kTaps, int kColumns, typename Step>
FR_HD void walk(const Operand<P>* weights, int depth, const Step& step) {
  FR_UNROLL(1)
  for (int k = 0; k < depth; k += kStep) FR_UNROLL(1)
  for (int tap = 0; tap < kTaps; ++tap, weights += kStep * kColumns)
    step(weights, tap, k, depth - k < kStep ? depth - k : kStep);
}

}  // namespace fastrobust
