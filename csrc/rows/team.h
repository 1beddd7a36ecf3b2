// One row is worked on by a team: a CPU thread (here) or a CUDA block (team.cuh). A kernel is
// written once, against the six functions of a team, and so computes the same on both:
//   each(n, f)                  f(j) for every j < n, in any order
//   grid<L>(first, end, f)      f(k, lane) for first <= k < end and lane < L, in any order; what
//                               it wrote for a (k, lane), it sees there the next time
//   passes(n, ahead, f, g, ...) f(j), then g(j), ... for every j < n; `ahead` is wanted soon after
//   sums<L>(rows, n, term, done)  for each r < rows: done(r, sum over j < n of term(r, j, acc))
//   top3(n, value)              the three best of value(0..n-1), known to the whole team
//   sync()                      what the team wrote before is visible to it after
// A sum has one fixed order on every machine: L partial sums, element j into partial j % L, then
// a halving tree.
#pragma once

#include "rows/common.h"

namespace fastrobust {

constexpr int kPixelLanes = 128;  // partial sums of a sum over pixels

// What passes() is to fetch into a CPU's cache: element j of each array while it works on element
// j. It changes nothing but the time.
template <typename T, int kArrays>
struct Ahead {
  const T* of[kArrays];
};

// How far on in an array that may be: so much of a few arrays has room in the second cache.
constexpr int64_t kFarAhead = 4096;

struct SerialTeam {
  template <typename F>
  FR_HD void each(int64_t n, F f) const {
    pass(0, n, f);
  }

  template <int kLanes, typename F>
  FR_HD void grid(int64_t first, int64_t end, F f) const {
    for (int64_t k = first; k < end; ++k)
#pragma omp simd
      for (int64_t lane = 0; lane < kLanes; ++lane) f(k, lane);
  }

  // Block by block, each function in a loop of its own: with all of them in one, a CPU looks too
  // few elements ahead to hide how long their roots and divisions take.
  template <typename T, int kArrays, typename... F>
  FR_HD void passes(int64_t n, Ahead<T, kArrays> ahead, F... f) const {
    constexpr int64_t kColumns = 128, kLine = 64 / sizeof(T);
    for (int64_t begin = 0; begin < n; begin += kColumns) {
      const int64_t end = begin + kColumns < n ? begin + kColumns : n;
      for (const T* array : ahead.of)
        for (int64_t j = begin; j < end; j += kLine) __builtin_prefetch(array + j, 0, 2);
      (pass(begin, end, f), ...);
    }
  }

  template <int kLanes, typename T, typename Term, typename Done>
  FR_HD void sums(int64_t rows, int64_t n, Term term, Done done) const {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) sums_of<4, kLanes, T>(r, n, term, done);
    for (; r < rows; ++r) sums_of<1, kLanes, T>(r, n, term, done);
  }

  template <typename T, typename Value>
  FR_HD Top3<T> top3(int64_t n, Value value) const {
    Top3<T> top;
    for (int64_t k = 0; k < n; ++k) top.insert(value(k), k);
    return top;
  }

  FR_HD void sync() const {}
  FR_HD bool leader() const { return true; }

 private:
  template <typename F>
  FR_HD static void pass(int64_t begin, int64_t end, F f) {
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) f(j);
  }

  template <typename T, int kLanes>
  struct Lanes {
    T of[kLanes];
  };

  // kRows sums side by side, so that their chains of additions overlap.
  template <int kRows, int kLanes, typename T, typename Term, typename Done>
  FR_HD void sums_of(int64_t first, int64_t n, Term term, Done done) const {
    Lanes<T, kLanes> part[kRows];
    for (auto& lanes : part) lanes = {};  // one by one: a whole array is cleared in memory
    const int64_t whole = n - n % kLanes;
    for (int64_t j = 0; j < whole; j += kLanes)
      for (int r = 0; r < kRows; ++r)
#pragma omp simd
        for (int lane = 0; lane < kLanes; ++lane)
          part[r].of[lane] = term(first + r, j + lane, part[r].of[lane]);
    for (int r = 0; r < kRows; ++r)
      for (int64_t j = whole; j < n; ++j)
        part[r].of[j - whole] = term(first + r, j, part[r].of[j - whole]);
    for (int r = 0; r < kRows; ++r) done(first + r, tree<kLanes>(part[r].of));
  }

  template <int kLanes, typename T>
  FR_HD static T tree(T* part) {
    if constexpr (kLanes == 1) {
      return part[0];
    } else {
#pragma omp simd
      for (int lane = 0; lane < kLanes / 2; ++lane) part[lane] += part[lane + kLanes / 2];
      return tree<kLanes / 2>(part);
    }
  }
};

}  // namespace fastrobust
