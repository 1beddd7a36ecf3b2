// Vectors of the instruction sets under the same names, for kernels whose register tiles are too
// large to be left to the compiler. Each set stands in a namespace of its own between
// FR_BEGIN_<SET> and FR_END, so that nothing is called on a CPU that lacks it.
//
//   V: kWidth floats; kOut, kVecs: outputs and vectors of the tile that fits into the registers.
//   madd(acc, x, w): acc + x * w, one rounding on all but the portable set.
//   kPairs, kMatrix: whether it multiplies pairs of bfloat16, and in a matrix unit.
//   store(to, v, bits): only where the bit is 1.
//   keep(v, bits): v where the bit is 1, else 0, also instead of NaN.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __x86_64__
// GCC 12 warns of its own header, where a register is left undefined on purpose:
// gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#ifndef __clang__
#pragma GCC diagnostic pop
#endif
#endif

#define FR_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define FR_BEGIN(isa) \
  FR_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define FR_END FR_PRAGMA(clang attribute pop)
#else
#define FR_BEGIN(isa) FR_PRAGMA(GCC push_options) FR_PRAGMA(GCC target(isa))
#define FR_END FR_PRAGMA(GCC pop_options)
#endif
#define FR_BEGIN_AVX2 FR_BEGIN("arch=x86-64-v3")
#define FR_BEGIN_AVX512 FR_BEGIN("arch=x86-64-v4,prefer-vector-width=512,avx512bf16")
#define FR_BEGIN_AMX FR_BEGIN("arch=x86-64-v4,prefer-vector-width=512,avx512bf16,amx-tile,amx-bf16")
#define FR_INLINE inline __attribute__((always_inline))

namespace fastrobust {

namespace portable {
struct Lanes {
  typedef float Four __attribute__((vector_size(16)));
  typedef int Mask __attribute__((vector_size(16)));
  struct V {
    Four low, high;
  };
  static constexpr int kWidth = 8, kOut = 4, kVecs = 1;
  static constexpr bool kPairs = false, kMatrix = false;
  static V pair(V low, V high);  // never called, nor is what follows
  static void store(float* to, V v, unsigned bits);
  template <int, typename P>
  static P across(P before, P v);

  static FR_INLINE V splat(float a) { return {Four{a, a, a, a}, Four{a, a, a, a}}; }
  static FR_INLINE V load(const float* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static FR_INLINE void store(float* to, V v) { std::memcpy(to, &v, sizeof v); }
  static FR_INLINE V add(V a, V b) { return {a.low + b.low, a.high + b.high}; }
  static FR_INLINE V mul(V a, V b) { return {a.low * b.low, a.high * b.high}; }
  static FR_INLINE V madd(V acc, V x, V w) { return add(acc, mul(x, w)); }
  static FR_INLINE float madd(float acc, float x, float w) { return acc + x * w; }
  static FR_INLINE V relu(V v) {
    const Four zero{};
    return {v.low < zero ? zero : v.low, v.high < zero ? zero : v.high};
  }
  static FR_INLINE unsigned positive(V v) {
    const Mask low = v.low > Four{}, high = v.high > Four{};
    unsigned bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (low[i] & 1) << i | (high[i] & 1) << (4 + i);
    return bits;
  }
  static FR_INLINE V keep(V v, unsigned bits) {
    const Mask each = {1, 2, 4, 8}, all = {int(bits), int(bits), int(bits), int(bits)};
    const Mask low = (all & each) == each, high = (all >> 4 & each) == each;
    return {Four(Mask(v.low) & low), Four(Mask(v.high) & high)};
  }
  static FR_INLINE V add_where_positive(V test, V a, V b) {
    const Four zero{};
    return {test.low > zero ? a.low + b.low : a.low, test.high > zero ? a.high + b.high : a.high};
  }
};
}  // namespace portable

#ifdef __x86_64__
FR_BEGIN_AVX2
namespace avx2 {
struct Lanes {
  using V = __m256;
  static constexpr int kWidth = 8, kOut = 6, kVecs = 2;
  static constexpr bool kPairs = false, kMatrix = false;
  static V pair(V low, V high);  // never called, nor is what follows
  static void store(float* to, V v, unsigned bits);
  template <int, typename P>
  static P across(P before, P v);

  static FR_INLINE V splat(float a) { return _mm256_set1_ps(a); }
  static FR_INLINE V load(const float* from) { return _mm256_loadu_ps(from); }
  static FR_INLINE void store(float* to, V v) { _mm256_storeu_ps(to, v); }
  static FR_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
  static FR_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static FR_INLINE V madd(V acc, V x, V w) { return _mm256_fmadd_ps(x, w, acc); }
  static FR_INLINE float madd(float acc, float x, float w) { return __builtin_fmaf(x, w, acc); }
  // The maximum of an x86 CPU is its second operand where one of them is NaN.
  static FR_INLINE V relu(V v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }
  static FR_INLINE V above(V v) { return _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GT_OQ); }
  static FR_INLINE unsigned positive(V v) { return _mm256_movemask_ps(above(v)); }
  static FR_INLINE V keep(V v, unsigned bits) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i found = _mm256_and_si256(_mm256_set1_epi32(bits), each);
    return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(found, each)));
  }
  static FR_INLINE V add_where_positive(V test, V a, V b) {
    return _mm256_blendv_ps(a, add(a, b), above(test));
  }
};
}  // namespace avx2
FR_END

FR_BEGIN_AVX512
namespace avx512 {
struct Lanes {
  using V = __m512;
  static constexpr int kWidth = 16, kOut = 12, kVecs = 2;
  static constexpr bool kPairs = true, kMatrix = false;  // pairs where it has AVX512-BF16

  static FR_INLINE V splat(float a) { return _mm512_set1_ps(a); }
  static FR_INLINE V load(const float* from) { return _mm512_loadu_ps(from); }
  static FR_INLINE void store(float* to, V v) { _mm512_storeu_ps(to, v); }
  static FR_INLINE void store(float* to, V v, unsigned bits) { _mm512_mask_storeu_ps(to, bits, v); }
  static FR_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
  static FR_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static FR_INLINE V madd(V acc, V x, V w) { return _mm512_fmadd_ps(x, w, acc); }
  static FR_INLINE float madd(float acc, float x, float w) { return __builtin_fmaf(x, w, acc); }
  static FR_INLINE V relu(V v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }
  static FR_INLINE unsigned positive(V v) {
    return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
  }
  static FR_INLINE V keep(V v, unsigned bits) { return _mm512_maskz_mov_ps(bits, v); }
  static FR_INLINE V add_where_positive(V test, V a, V b) {
    return _mm512_mask_add_ps(a, positive(test), a, b);
  }

  // Pairs of bfloat16 in 32 bits.
  using P = __m512i;
  alignas(64) static constexpr uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  static FR_INLINE P splat(uint32_t a) { return _mm512_set1_epi32(a); }
  static FR_INLINE P load(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static FR_INLINE void store(uint32_t* to, P v) { _mm512_storeu_si512(to, v); }
  static FR_INLINE P keep(P v, unsigned bits) { return _mm512_maskz_mov_epi32(bits, v); }
  // 16 numbers of two vectors in a row, from `first` of the one before on.
  template <int first>
  static FR_INLINE P across(P before, P v) {
    return _mm512_alignr_epi32(v, before, first);
  }
  template <int first>
  static FR_INLINE V across(V before, V v) {
    return (V)across<first>((P)before, (P)v);
  }
  static FR_INLINE V madd(V acc, P x, P w) {
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w);
  }
  static FR_INLINE P pair(V low, V high) {
    const P halves = (P)_mm512_cvtne2ps_pbh(high, low);  // 16 of low, then 16 of high
    return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves);
  }
};
}  // namespace avx512
FR_END

FR_BEGIN_AMX
namespace amx {
struct Lanes : avx512::Lanes {
  static constexpr bool kMatrix = true;
};
}  // namespace amx
FR_END
#endif

}  // namespace fastrobust
