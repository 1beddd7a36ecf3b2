// The numbers that the GPU engine of a DenseNet works on: precisions of the matrix products, and
// eight neighbouring channels of a pixel, which are read and written at once.
//
//   kFloat32   float32 products
//   kTf32      operands rounded to 10 bits of mantissa, float32 sums
//   kBfloat16  operands, and the channels kept for the backward, rounded to bfloat16; float32 sums
#pragma once

#include <type_traits>

#include "rows/elementary.h"

#ifdef __CUDA_ARCH__
#define FR_TEXT(text) #text
#define FR_UNROLL(times) _Pragma(FR_TEXT(unroll times))
#else
#define FR_UNROLL(times)
#endif

namespace fastrobust {

enum class Precision { kFloat32, kTf32, kBfloat16 };

struct Bfloat16 {
  uint16_t bits;
};

// To nearest, ties to even; NaN stays NaN.
FR_HD Bfloat16 to_bfloat16(float value) {
#ifdef __CUDA_ARCH__
  uint16_t result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
  return {result};
#else
  const uint32_t word = bits<uint32_t>(value);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16)};
#endif
}

// To nearest, ties away from zero, as cvt.rna.tf32.f32 of the PTX ISA; NaN and infinities stay.
FR_HD float to_tf32(float value) {
  const uint32_t word = bits<uint32_t>(value);
  if ((word & 0x7f800000) == 0x7f800000) return value;
  return bits<float>((word + 0x1000) & 0xffffe000);
}

FR_HD float to_float(float value) { return value; }
FR_HD float to_float(Bfloat16 value) {
  return bits<float>(static_cast<uint32_t>(value.bits) << 16);
}

template <typename S>
FR_HD S stored(float value) {
  if constexpr (std::is_same_v<S, float>)
    return value;
  else
    return to_bfloat16(value);
}

// What a product of this precision takes, and what channels are kept in between the kernels.
template <Precision P>
using Operand = std::conditional_t<P == Precision::kBfloat16, Bfloat16, float>;

template <Precision P>
FR_HD Operand<P> operand(float value) {
  if constexpr (P == Precision::kBfloat16) return to_bfloat16(value);
  if constexpr (P == Precision::kTf32) return to_tf32(value);
  if constexpr (P == Precision::kFloat32) return value;
}

constexpr int kPiece = 8;  // channels

// Sixteen or eight bytes at once, from and to addresses that are multiples of that.
template <int kBytes>
FR_HD void copy(void* to, const void* from) {
#ifdef __CUDA_ARCH__
  if constexpr (kBytes == 16)
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  else
    *static_cast<uint2*>(to) = *static_cast<const uint2*>(from);
#else
  __builtin_memcpy(to, from, kBytes);
#endif
}

template <int kBytes>
FR_HD bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kBytes == 0;
}

template <typename S>
struct alignas(16) Piece {
  S at[kPiece];
};

// The first `count` of eight channels; zeros after them. Four at once where the address allows it.
template <typename S>
FR_HD Piece<S> read(const S* from, int count) {
  constexpr int kFour = 4 * sizeof(S);
  Piece<S> piece;
  if (count >= kPiece && aligned<16>(from)) {
    for (int i = 0; i < kPiece; i += 16 / sizeof(S)) copy<16>(piece.at + i, from + i);
  } else if (count % 4 == 0 && aligned<kFour>(from)) {
    for (int i = 0; i < kPiece; ++i) piece.at[i] = S{};
    if (count > 0) copy<kFour>(piece.at, from);
    if (count > 4) copy<kFour>(piece.at + 4, from + 4);
  } else {
    for (int i = 0; i < kPiece; ++i) piece.at[i] = i < count ? from[i] : S{};
  }
  return piece;
}

template <typename S>
FR_HD void write(S* to, const Piece<S>& piece, int count) {
  constexpr int kFour = 4 * sizeof(S);
  if (count >= kPiece && aligned<16>(to)) {
    for (int i = 0; i < kPiece; i += 16 / sizeof(S)) copy<16>(to + i, piece.at + i);
  } else if (count % 4 == 0 && aligned<kFour>(to)) {
    if (count > 0) copy<kFour>(to, piece.at);
    if (count > 4) copy<kFour>(to + 4, piece.at + 4);
  } else {
    for (int i = 0; i < kPiece; ++i)
      if (i < count) to[i] = piece.at[i];
  }
}

FR_HD float relu(float value) { return value < 0 ? 0 : value; }  // NaN stays NaN

// Scale and shift of eight channels.
struct ScaleShift {
  Piece<float> scale, shift;

  FR_HD float operator()(float x, int i) const { return fused(x, scale.at[i], shift.at[i]); }
};

}  // namespace fastrobust
