// The most that one core multiplies and adds: independent chains in registers, no memory.
#include <immintrin.h>

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

int main() {
  const V x = splat(0.999f), y = splat(1e-3f);
  std::printf("%.1f ", rate(2 * sizeof(V) / 4, [&](V a) { return next(a, x, y); }));
#ifdef __AVX512BF16__
  const __m512bh one = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  std::printf("%.1f", rate(4 * sizeof(V) / 4, [&](V a) { return _mm512_dpbf16_ps(a, one, one); }));
#endif
}
