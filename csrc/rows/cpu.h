// The serial CPU loop over rows, compiled for three instruction sets and chosen at run time.
//
// Every version computes the same bits: fused operations are written as such, sums have a fixed
// order, and the compiler may not contract (-ffp-contract=off).
#pragma once

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "rows/common.h"
#include "rows/team.h"

#if defined(__x86_64__) && defined(__clang__)
#define FR_AVX2 __attribute__((target("arch=x86-64-v3")))
#define FR_AVX512 __attribute__((target("arch=x86-64-v4")))
#elif defined(__x86_64__) && defined(__GNUC__)
#define FR_AVX2 __attribute__((target("arch=x86-64-v3")))
#define FR_AVX512 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#endif

namespace fastrobust {

// AMX, a matrix unit, is AVX-512 for everything but matrix products of bfloat16.
enum class Isa { kPortable, kAvx2, kAvx512, kAmx };

inline const char* name(Isa isa) {
  constexpr const char* kNames[] = {"portable", "avx2", "avx512", "amx"};
  return kNames[static_cast<int>(isa)];
}

// Whether the matrix unit is there and Linux lets this process have its large registers, for which
// one must ask: docs.kernel.org/arch/x86/xstate.html
inline bool has_amx() {
#if defined(FR_AVX512) && defined(__linux__)
  constexpr int kRequest = 0x1023, kTiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-bf16") &&
         __builtin_cpu_supports("amx-tile") && syscall(SYS_arch_prctl, kRequest, kTiles) == 0;
#else
  return false;
#endif
}

// The best instruction set that this CPU has.
inline Isa best_isa() {
#ifdef FR_AVX512
  static const bool amx = has_amx();
  if (amx) return Isa::kAmx;
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

// The one in use: the best, or a lesser one that FASTROBUST_CPU names: portable, avx2, avx512.
inline Isa& active_isa() {
  static Isa isa = [] {
    const Isa best = best_isa();
    const char* wish = std::getenv("FASTROBUST_CPU");
    for (Isa lesser : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
      if (wish && lesser < best && std::strcmp(wish, name(lesser)) == 0) return lesser;
    return best;
  }();
  return isa;
}

// Whether matrix products may take operands in bfloat16.
inline bool has_bf16() {
#ifdef FR_AVX512
  return active_isa() >= Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

template <typename Args>
FR_HD void serial_rows(const Args& args, int64_t begin, int64_t end) {
  using T = typename Args::Scalar;
  // From a cache line on: a vector stored across two lines is slow to read back.
  constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(T* memory) const { ::operator delete[](memory, kLine); }
  };
  const std::unique_ptr<T[], Free> scratch(new (kLine) T[scratch_size(args)]);
  for (int64_t row = begin; row < end; ++row) compute_row(args, row, SerialTeam{}, scratch.get());
}

template <typename Args>
void rows_portable(const Args& args, int64_t begin, int64_t end) {
  serial_rows(args, begin, end);
}

#ifdef FR_AVX512
template <typename Args>
FR_AVX2 void rows_avx2(const Args& args, int64_t begin, int64_t end) {
  serial_rows(args, begin, end);
}

template <typename Args>
FR_AVX512 void rows_avx512(const Args& args, int64_t begin, int64_t end) {
  serial_rows(args, begin, end);
}
#endif

// Computes rows [begin, end) of a kernel. Each header gives its Args a compute_row(args, row, team,
// scratch) and a scratch_size(args): how many scalars of working memory a row needs.
template <typename Args>
void cpu_rows(const Args& args, int64_t begin, int64_t end) {
#ifdef FR_AVX512
  if (active_isa() >= Isa::kAvx512) return rows_avx512(args, begin, end);
  if (active_isa() == Isa::kAvx2) return rows_avx2(args, begin, end);
#endif
  rows_portable(args, begin, end);
}

}  // namespace fastrobust
