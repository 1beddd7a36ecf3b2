// The most that one core multiplies and adds: independent chains in registers, no memory.
#include <immintrin.h>

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <chrono>
#include <cstdio>

namespace {
constexpr int kChains = 12, kTurns = 1000000, kRepeats = 40;

#if defined(__AVX512F__)
using V = __m512;
V splat(float a) { return _mm512_set1_ps(a); }
V next(V a, V x, V y) { return _mm512_fmadd_ps(a, x, y); }
#else
using V = __m256;
V splat(float a) { return _mm256_set1_ps(a); }
V next(V a, V x, V y) { return _mm256_fmadd_ps(a, x, y); }
#endif

// Billions of operations a second, the best of some repeats.
template <typename Step>
double rate(int operations, Step step) {
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    V chain[kChains];
    for (int i = 0; i < kChains; ++i) chain[i] = splat(static_cast<float>(i));
    const auto start = std::chrono::steady_clock::now();
    for (int turn = 0; turn < kTurns; ++turn) {
      for (int i = 0; i < kChains; ++i) chain[i] = step(chain[i]);
      asm volatile("" : "+v"(chain[0]), "+v"(chain[5]));
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    for (V& c : chain) asm volatile("" : "+v"(c));
    const double now = 1e-9 * operations * kChains * kTurns / taken.count();
    best = now > best ? now : best;
  }
  return best;
}
}  // namespace

#ifdef __AMX_BF16__
// Four sums of a matrix unit, 16 x 16 x 32 each; as many tiles of operands.
double matrix_rate() {
  struct {
    unsigned char palette = 1, start = 0, reserved[14] = {};
    unsigned short bytes[16] = {64, 64, 64, 64, 64, 64};
    unsigned char rows[16] = {16, 16, 16, 16, 16, 16};
  } shape;
  asm volatile("" ::"r"(&shape) : "memory");  // for GCC 12 eight bytes of it are read
  _tile_loadconfig(&shape);
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int turn = 0; turn < kTurns / 10; ++turn) {
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 5);
      _tile_dpbf16ps(2, 4, 5);
      _tile_dpbf16ps(3, 4, 5);
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    const double now = 1e-9 * 4 * 2 * 16 * 16 * 32 * (kTurns / 10) / taken.count();
    best = now > best ? now : best;
  }
  _tile_release();
  return best;
}
#endif

// float32, then bfloat16 in vectors and in a matrix unit, where they are.
int main() {
  const V x = splat(0.999f), y = splat(1e-3f);
  std::printf("%.1f ", rate(2 * sizeof(V) / 4, [&](V a) { return next(a, x, y); }));
#ifdef __AVX512BF16__
  const __m512bh one = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  std::printf("%.1f ", rate(4 * sizeof(V) / 4, [&](V a) { return _mm512_dpbf16_ps(a, one, one); }));
#endif
#ifdef __AMX_BF16__
  if (syscall(SYS_arch_prctl, 0x1023, 18) == 0) std::printf("%.1f", matrix_rate());
#endif
}
